#!/usr/bin/env python3
"""Writes an image of one file without an engine, as an archive that `ctr images import` and `docker load` read.

    image.py OUT.tar REFERENCE FILE

FILE becomes /NAME, executable by everyone, and the image's entry point. There is nothing else in it.
"""

import hashlib
import io
import json
import os
import sys
import tarfile


def archive(files):
    """A tar of {name: (mode, bytes)}, the same for the same content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, (mode, data) in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def image(reference, path):
    name = os.path.basename(path)
    with open(path, "rb") as file:
        layer = archive({name: (0o755, file.read())})
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/" + name]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + layer_digest]},
        "history": [{"created_by": "image.py"}],
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    layer_name = layer_digest + "/layer.tar"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [reference], "Layers": [layer_name]}]).encode()
    return archive({name: (0o644, data) for name, data in (
        (config_name, config), (layer_name, layer), ("manifest.json", manifest))})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1], "wb") as output:
        output.write(image(sys.argv[2], sys.argv[3]))
