"""The page on which `dvc plots` draws: one that needs no network.

    python -m catsdogs.plots_page

To be run from the repository's root, with `src` on Python's path. DVC's own page loads Vega, which
draws its charts, from the internet; this one holds it. Page and setting lie side by side in
`.dvc`, so that neither is lost or copied alone. Where this never ran, DVC takes its own page.
"""

import base64
import subprocess
from pathlib import Path

from catsdogs.files import write_text
from catsdogs.stage import UserError, run

import vl_convert

PAGE = Path(".dvc/plots_page.html")
VEGA_LITE = "5.21"  # the last of the version that DVC's templates name
# What DVC's charts call. The legend goes below, so that all charts are equally wide.
EMBED = """
const options = {
  actions: {export: true, source: false, compiled: false, editor: false},
  config: {font: "sans-serif", legend: {orient: "bottom"}},
  renderer: "svg",
};
window.vegaEmbed = (element, chart) => vegaEmbed(element, chart, options);
"""
# DVC fills in {refresh_tag} and {plot_divs}; its {scripts} are those from the internet.
HTML = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>Cats or dogs: plots</title>
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
<h1>Cats or dogs</h1>
<p>Where a chart has all models, its colours are models and its dashes revisions; where it has one,
its colours are revisions.</p>
<main>
{plot_divs}
</main>
</body>
</html>
"""


def main() -> None:
    """Write the page, and name it in this checkout's own configuration of DVC."""
    if not PAGE.parent.is_dir():
        raise UserError(f"{PAGE.parent} is not here: run from the repository's root")
    write_text(PAGE, page())
    setting = ["dvc", "config", "--quiet", "--local", "plots.html_template", PAGE.name]
    if subprocess.run(setting, check=False).returncode:
        raise UserError("`dvc config` fails: see above")
    print(f"`dvc plots` draws on {PAGE}, without the internet")


def page() -> str:
    """The page: HTML with all of Vega inside, and the places that DVC fills."""
    # Coded so that nothing in it is taken for a tag or a place, and its names are not the page's.
    vega = f"(() => {{{vl_convert.javascript_bundle(EMBED, VEGA_LITE)}}})();"
    return HTML.replace("VEGA", base64.b64encode(vega.encode()).decode())


if __name__ == "__main__":
    run(main, "run it again")
