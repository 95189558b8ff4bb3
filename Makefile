# make demo and make test create all that they need. PYTHON names the interpreter: the first one that works of these,
# of which 3.11 is what everything is tested on.
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do python$$v -c "" 2>/dev/null && echo python$$v && break; done)
BIN := .venv/bin
DEMO := runs/demo
# How long `make demo` trains, and on how many goals it evaluates.
LENGTH ?= --steps 40000
GOALS ?= 1000
# Tests run side by side (conftest.py says how many), but for those that need the machine for themselves.
CORES := -n auto --maxprocesses 4 --dist worksteal
PYTEST := $(BIN)/python -m pytest
READY := .venv/ready

.PHONY: demo test check soak static docs clean

demo: $(READY)
	@if [ -e $(DEMO) ]; then mv $(DEMO) $(DEMO)-$$(date +%Y%m%d-%H%M%S); fi
	$(BIN)/arm-control train ddpg $(LENGTH) --out $(DEMO)
	$(BIN)/arm-control evaluate $(DEMO) --goals $(GOALS) --json $(DEMO)/evaluation.json
	$(BIN)/arm-control export $(DEMO)
	$(BIN)/arm-control inspect $(DEMO)/policy.onnx
	$(BIN)/arm-control run $(DEMO)/policy.onnx --driver sim --random 5 --json $(DEMO)/run.json
	$(BIN)/arm-control replay $(DEMO)/policy.onnx --save $(DEMO)/video.mp4
	$(BIN)/arm-control replay $(DEMO)/policy.onnx --save $(DEMO)/page.html
	$(BIN)/arm-control report $(DEMO)
	@echo
	@echo "Done. Look at:"
	@ls -1 $(DEMO)/report.md $(DEMO)/curve.png $(DEMO)/video.mp4 $(DEMO)/page.html $(DEMO)/policy.onnx

# The static checks and the site take a core each.
test: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync static docs
	@failed=0; \
	$(PYTEST) -m "not alone and not soak" $(CORES) || failed=1; \
	$(PYTEST) -m "alone and not soak" || failed=1; \
	exit $$failed

check: $(READY) static
	$(PYTEST) -m "not slow and not soak" $(CORES)

# The tests whose size is a setting, at full size: what a release note quotes.
soak: export ARM_CONTROL_SOAK = 1
soak: $(READY)
	@failed=0; \
	$(PYTEST) -m "(sized or soak) and not alone" $(CORES) --timeout 3600 || failed=1; \
	$(PYTEST) -m "(sized or soak) and alone" --timeout 3600 || failed=1; \
	exit $$failed

static: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The site of README, docs/ and docstrings. A broken link or anchor is an error; -E reads every page again, so that a
# second build reports it as well.
docs: $(READY)
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs site
	@echo "Done: site/index.html"

$(READY): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "found no '$(PYTHON)': install Python 3.11, 3.12 or 3.13, or name one with PYTHON=..."; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv dist site
