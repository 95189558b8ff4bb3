"""A web page in one file, which opens offline: the moving arm, plots, and the error of each goal."""

import io
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from arm_control.runs.files import write_text
from arm_control.viewers.common.stage import TRACE_POINTS, TRACE_S, Stage, serving
from arm_control.viewers.common.trajectory import Episode, Trajectory
from arm_control.viewers.common.web_access import PAGE_POLICY
from arm_control.viewers.plot.figure import trajectory_figure

RATE_HZ = 30.0
LONGEST_S = 180.0  # of the animation
LABEL = np.array((-0.3, -0.34, 0.9))  # times the arm's reach: left of the arm as the camera sees it

# `Markup` escapes each text that is inserted: names in a recording are untrusted.
PAGE = Markup("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #1e1e22 }}
body {{ margin: 0 auto; max-width: 1100px; padding: 0 16px 40px }}
h1 {{ font-size: 22px; font-weight: 600 }}
iframe {{ width: 100%; height: min(70vh, 640px); border: 1px solid #d8d8dc; border-radius: 8px }}
table {{ border-collapse: collapse; margin: 18px 0 }}
th, td {{ padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid #e4e4e8 }}
th:first-child, td:first-child {{ text-align: left }}
svg {{ width: 100%; height: auto }}
p {{ color: #55555c }}
</style></head><body>
<h1>{title}</h1>
<iframe title="The arm" srcdoc="{scene}"></iframe>
<p>{note}</p>
{table}
{plots}
</body></html>
""")


def save_page(trajectories: Sequence[Trajectory], path: str | Path) -> None:
    """Write trajectories of the same arm, overlaid, into one HTML file, whole or not at all."""
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    start_s, end_s = shown_part(trajectories)
    note = "Drag to rotate, scroll to zoom; the bar below the arm plays and scrubs."
    if end_s - start_s < max(trajectory.length_s for trajectory in trajectories) - 1e-6:
        note += f" The animation and the table cover {start_s:.0f} to {end_s:.0f} s."
    text = PAGE.format(
        policy=PAGE_POLICY + "connect-src data: blob:",
        title=" and ".join(trajectory.name for trajectory in trajectories),
        scene=scene_of(trajectories, start_s, end_s),
        note=note,
        table=table_of(trajectories, start_s, end_s),
        plots=plots_of(trajectories),
    )
    write_text(target, text)


def shown_part(trajectories: Sequence[Trajectory]) -> tuple[float, float]:
    """Start and end of the animation in s: up to LONGEST_S, around the time at which a recording opens."""
    length_s = max(trajectory.length_s for trajectory in trajectories)
    latest_start_s = max(0.0, length_s - LONGEST_S)
    centred_start_s = max(0.0, trajectories[0].opens_at_s - 0.5 * LONGEST_S)
    start_s = min(centred_start_s, latest_start_s)
    return start_s, min(length_s, start_s + LONGEST_S)


def scene_of(trajectories: Sequence[Trajectory], start_s: float, end_s: float) -> str:
    """The scene as a page of its own, which plays without a server."""
    # Serve the scene on any free port, record its animation, and take it as a page.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving("127.0.0.1", port) as server:
        stage = Stage(server, [trajectory.arm for trajectory in trajectories])
        # Move the camera closer: a saved page has no panel beside the arm.
        server.initial_camera.position = 0.8 * np.array(server.initial_camera.position)
        label = server.scene.add_label("/numbers", "", position=LABEL * trajectories[0].arm.reach_m)
        serializer = server.get_scene_serializer()
        for time_s in np.arange(start_s, end_s, 1.0 / RATE_HZ).tolist():
            # The label: the goal's name, and each arm's error.
            episode = trajectories[0].episode_at(time_s)
            texts = [] if episode is None else [episode.name]
            for place, trajectory in enumerate(trajectories):
                now = trajectory.sample(time_s)
                recent = trajectory.segment(time_s - TRACE_S, time_s, most=200)
                stage.show(place, now, recent.trace_m(TRACE_POINTS))
                if not np.isnan(now.error_mm[0]):
                    texts.append(f"{now.error_mm[0]:.1f} mm")
            label.text = "   ".join(texts)
            serializer.insert_sleep(1.0 / RATE_HZ)
        return serializer.as_html()


def table_of(trajectories: Sequence[Trajectory], start_s: float, end_s: float) -> Markup:
    """The error of each trajectory for each goal that begins in the part shown, as `arm-control run` prints it."""
    names = [Markup("<th>{} (mm)</th>").format(trajectory.name) for trajectory in trajectories]
    rows = []
    for number, episode in enumerate(trajectories[0].episodes):
        if not start_s <= episode.start_s < end_s:
            continue
        cells = []
        for trajectory in trajectories:
            error_mm = trajectory.error_at_end_mm(own_episode(trajectory, number, episode))
            cells.append(Markup("<td>{}</td>").format("-" if np.isnan(error_mm) else f"{error_mm:.2f}"))
        rows.append(Markup("<tr><td>{}</td>{}</tr>").format(episode.name, Markup().join(cells)))
    head = Markup("<tr><th>error at the end</th>{}</tr>").format(Markup().join(names))
    return Markup("<table>{}{}</table>").format(head, Markup().join(rows))


def own_episode(trajectory: Trajectory, number: int, episode: Episode) -> Episode:
    """A trajectory's own episode with this number and name, possibly at other times; `episode` if it has none."""
    own = trajectory.episodes[number : number + 1]
    return own[0] if own and own[0].name == episode.name else episode


def plots_of(trajectories: Sequence[Trajectory]) -> Markup:
    """The plots as an SVG element, in which matplotlib escapes all text."""
    text = io.StringIO()
    trajectory_figure(trajectories).savefig(text, format="svg", metadata={"Date": None})
    return Markup(re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL))
