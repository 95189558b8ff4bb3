"""A page in one file, which opens offline: the arm in motion, plots, and how near it came to each goal."""

import io
import re
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from arm_control.runs.files import write_text
from arm_control.viewers.common.guard import PAGE_POLICY
from arm_control.viewers.common.motion import Episode, Motion
from arm_control.viewers.common.stage import TRACE_POINTS, TRACE_S, Stage, serving
from arm_control.viewers.plot.figure import motion_figure

RATE_HZ = 30.0
LONGEST_S = 180.0  # that is shown
LABEL = np.array((-0.3, -0.34, 0.9))  # times the arm's reach: left of the arm as the camera sees it

# `Markup` escapes each text that it is given: names in a recording are anybody's.
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


def save_page(motions: Sequence[Motion], path: str | Path) -> None:
    """Write motions of the same arm, laid over each other, into one HTML file, whole or not at all."""
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {target}: there is no folder {target.parent}")
    start_s, end_s = shown_part(motions)
    note = "Drag to turn, scroll to come nearer; the bar below the arm plays and scrubs."
    if end_s - start_s < max(motion.length_s for motion in motions) - 1e-6:
        note += f" The arm is shown from {start_s:.0f} to {end_s:.0f} s, and the table has the goals of that part."
    text = PAGE.format(
        policy=PAGE_POLICY + "connect-src data: blob:",
        title=" and ".join(motion.name for motion in motions),
        scene=scene_of(motions, start_s, end_s),
        note=note,
        table=table_of(motions, start_s, end_s),
        plots=plots_of(motions),
    )
    write_text(target, text)


def shown_part(motions: Sequence[Motion]) -> tuple[float, float]:
    """From when to when the arm is shown: up to LONGEST_S, around where a recording opens."""
    length_s = max(motion.length_s for motion in motions)
    start_s = min(max(0.0, motions[0].opens_at_s - 0.5 * LONGEST_S), max(0.0, length_s - LONGEST_S))
    return start_s, min(length_s, start_s + LONGEST_S)


def scene_of(motions: Sequence[Motion], start_s: float, end_s: float) -> str:
    """The scene as a page of its own, which plays by itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving("127.0.0.1", port) as server:
        stage = Stage(server, [motion.arm for motion in motions])
        server.initial_camera.position = 0.8 * np.array(server.initial_camera.position)  # there is no panel beside it
        label = server.scene.add_label("/numbers", "", position=LABEL * motions[0].arm.reach_m)
        serializer = server.get_scene_serializer()
        for time_s in np.arange(start_s, end_s, 1.0 / RATE_HZ).tolist():
            words = []
            for place, motion in enumerate(motions):
                now = motion.moment(time_s)
                stage.show(place, now, motion.stretch(time_s - TRACE_S, time_s, most=200).trace_m(TRACE_POINTS))
                if not np.isnan(now.error_mm[0]):
                    words.append(f"{now.error_mm[0]:.1f} mm")
            episode = motions[0].episode_at(time_s)
            label.text = f"{f'{episode.name}   ' if episode else ''}{'   '.join(words)}"
            serializer.insert_sleep(1.0 / RATE_HZ)
        return serializer.as_html()


def table_of(motions: Sequence[Motion], start_s: float, end_s: float) -> Markup:
    """The error of each motion for each goal whose episode begins in that part, as `arm-control run` prints it."""
    names = [Markup("<th>{} (mm)</th>").format(motion.name) for motion in motions]
    rows = []
    for number, episode in enumerate(motions[0].episodes):
        if not start_s <= episode.start_s < end_s:
            continue
        errors = [motion.error_at_end_mm(own_episode(motion, number, episode)) for motion in motions]
        cells = [Markup("<td>{}</td>").format("-" if np.isnan(error) else f"{error:.2f}") for error in errors]
        rows.append(Markup("<tr><td>{}</td>{}</tr>").format(episode.name, Markup().join(cells)))
    head = Markup("<tr><th>error at the end</th>{}</tr>").format(Markup().join(names))
    return Markup("<table>{}{}</table>").format(head, Markup().join(rows))


def own_episode(motion: Motion, number: int, episode: Episode) -> Episode:
    """A motion's own episode of this number and name, which may be at other times; if it has none, the other's."""
    own = motion.episodes[number : number + 1]
    return own[0] if own and own[0].name == episode.name else episode


def plots_of(motions: Sequence[Motion]) -> Markup:
    """The plots as an SVG element, in which matplotlib escapes all text."""
    text = io.StringIO()
    motion_figure(motions).savefig(text, format="svg", metadata={"Date": None})
    return Markup(re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL))
