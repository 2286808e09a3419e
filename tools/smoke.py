"""Use an installed multiframe once, from outside: start the demo, get the page and a frame, stop it.

Run as `python tools/smoke.py FOLDER`: it takes the `multiframe` on PATH, and needs nothing but the standard library.
"""

import json
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

SECONDS = 120  # to wait for the demo to serve; it makes its data first
DICOMWEB = "dicom-web/"  # below the address that the demo prints


def get(url, accept="*/*"):
    """The body of `url`; an error status raises."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=60) as response:
        return response.read()


def served(demo):
    """The address in the demo's `Serving http://HOST:PORT/` line."""
    for line in demo.stdout:
        if match := re.search(r"Serving (http://\S+)", line):
            return match.group(1)
    raise SystemExit("smoke: the demo ended, or took too long, before it served anything")


def check_page(root):
    """The page, and every script and style that it names."""
    page = get(root).decode()
    assert "<html" in page, "the page is no page: " + page[:200]
    assets = re.findall(r'(?:src|href)="([^"#:]+\.(?:js|css))"', page)
    assert assets, "the page names no script: is the viewer in the wheel?"
    for asset in assets:
        assert get(urllib.parse.urljoin(root, asset)), asset + " is empty"


def check_frame(root):
    """Frame 1 of the first instance found."""
    dicomweb = urllib.parse.urljoin(root, DICOMWEB)
    found = json.loads(get(dicomweb + "instances", "application/dicom+json"))
    study, series, instance = (found[0][tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    frame = get(
        f"{dicomweb}studies/{study}/series/{series}/instances/{instance}/frames/1",
        'multipart/related; type="application/octet-stream"; transfer-syntax=*',
    )
    assert len(frame) > 100, f"a frame of {len(frame)} bytes"


def main(folder):
    """Print what works; raise on what does not."""
    print("smoke:", subprocess.check_output(["multiframe", "--version"], text=True).strip())
    command = ["multiframe", "demo", "--size", "20MB", "--port", "0", "--dir", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        patience = threading.Timer(SECONDS, demo.kill)
        patience.start()
        try:
            root = served(demo)
            check_page(root)
            check_frame(root)
        finally:
            patience.cancel()
            demo.terminate()
            try:
                demo.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                demo.kill()
                raise SystemExit("smoke: the demo did not stop within 15 s") from None


if __name__ == "__main__":
    main(sys.argv[1])
