"""Portraits as files: JPEG, nothing of the originals' metadata, and a machine-readable word that a model made them."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from engine.images import JPEG_QUALITY, write_whole
from engine.types import Rgb

# IPTC Digital Source Type: a picture of which a trained model made parts.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def write_portrait(path: Path, rgb: Rgb, *, synced: bool = True) -> None:
    """Writes `rgb` as a JPEG that says how it was made, as `write_whole` writes."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, xmp=XMP.encode())
    write_whole(path, buffer.getvalue(), synced=synced)
