"""What experiments share: their declaration, how they are run and resumed, their statistics, figures and page."""
