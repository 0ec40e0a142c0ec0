"""Let `dvc plots` draw without a network.

DVC's own page loads Vega, which draws the charts, from the internet. This page contains it. The
page and the setting that names it are both in `.dvc`, so neither gets lost or copied alone.
"""

import base64
from pathlib import Path

from catsdogs.commands.programs import output
from catsdogs.files import write_text
from catsdogs.stage import UserError

import vl_convert

PAGE = Path(".dvc/plots_page.html")
VEGA_LITE = "5.21"  # vl_convert's last of version 5, which DVC's templates name
# What the charts of DVC call. The legend is below the chart, so that all are equally wide.
EMBED = """
const options = {
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {font: "sans-serif", legend: {orient: "bottom"}},
  renderer: "svg",
};
window.vegaEmbed = (element, chart) => vegaEmbed(element, chart, options);
"""
# DVC fills in {refresh_tag} and {plot_divs}. It would put links to the internet at {scripts}.
HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Plots of the models</title>
<script src="data:text/javascript;base64,VEGA"></script>
<style>
body { color: #222; font-family: sans-serif; margin: 2em; }
main { display: flex; flex-wrap: wrap; gap: 2em; }
main > div[style] {  /* a picture, in every revision that has it */
  border: 0 !important; border-top: 1px solid #ccc !important; box-sizing: border-box;
  display: flex; flex-wrap: wrap; gap: 1em; padding-top: 1em; width: 100%;
}
main > div[style] > p { font-weight: bold; margin: 0; text-align: left; width: 100%; }
main > div[style] > div { border: 0 !important; flex: 1; margin: 0 !important; }
main > div[style] > div > p { margin: 0 0 .5em; }
img { max-width: 100%; }
</style>
</head>
<body>
<h1>Plots of the models</h1>
<p>Where a chart has all models, its colours are models and its dashes revisions; where it has one,
its colours are revisions.</p>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def main() -> None:
    """Write the page, and name it in the local configuration of DVC."""
    if not PAGE.parent.is_dir():
        raise UserError(f"{PAGE.parent} is not here: run from the repository's root")
    write_text(PAGE, page())
    output("dvc", "config", "--quiet", "--local", "plots.html_template", PAGE.name)
    print(f"`dvc plots` draws on {PAGE}, without the internet")


def page() -> str:
    """Return the page as DVC's template: HTML with Vega inside."""
    # In base64, nothing of Vega looks like a tag or a field. In a function, its names are its own.
    vega = f"(() => {{{vl_convert.javascript_bundle(EMBED, VEGA_LITE)}}})();"
    return HTML.replace("VEGA", base64.b64encode(vega.encode()).decode())
