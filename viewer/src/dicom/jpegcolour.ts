/**
 * Knows how a browser guesses whether a three-component JPEG holds RGB or YCbCr, and corrects the
 * guess where the DICOM header knows better. Pure.
 *
 * Decoders go by the markers: JFIF (APP0) means YCbCr, Adobe (APP14) says it outright, and with
 * neither YCbCr is assumed. A file whose Photometric Interpretation is RGB and whose JPEG has
 * neither marker would come out in false colours, so it is given the Adobe marker "transform 0".
 */

const APP0 = 0xe0;
const APP14 = 0xee;
const START_OF_SCAN = 0xda;
/** SOI is two bytes; the Adobe segment goes right behind it. */
const AFTER_SOI = 2;

const ADOBE_RGB = new Uint8Array([
  0xff, APP14, 0x00, 0x0e, 0x41, 0x64, 0x6f, 0x62, 0x65, 0x00, 0x64, 0x00, 0x00, 0x00, 0x00, 0x00,
]);

export function withColourSaid(
  jpeg: Uint8Array<ArrayBuffer>,
  photometric: string,
): Uint8Array<ArrayBuffer> {
  if (photometric !== 'RGB' || saysItsColour(jpeg)) return jpeg;
  const out = new Uint8Array(jpeg.length + ADOBE_RGB.length);
  out.set(jpeg.subarray(0, AFTER_SOI));
  out.set(ADOBE_RGB, AFTER_SOI);
  out.set(jpeg.subarray(AFTER_SOI), AFTER_SOI + ADOBE_RGB.length);
  return out;
}

function saysItsColour(jpeg: Uint8Array): boolean {
  let at = AFTER_SOI;
  while (at + 4 <= jpeg.length && jpeg[at] === 0xff) {
    const marker = jpeg[at + 1] ?? 0;
    if (marker === APP0 || marker === APP14) return true;
    if (marker === START_OF_SCAN) return false;
    at += 2 + (((jpeg[at + 2] ?? 0) << 8) | (jpeg[at + 3] ?? 0));
  }
  return false;
}
