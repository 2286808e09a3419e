// Reads an index file (docs/reference/index-file.md) in a browser, Node or Deno; no other code is needed.
// Gives the facts of its first line, and for each frame its fragments as [start, stop) in bytes of the DICOM file:
//   const { facts, frames } = await readIndexFile((await fetch('cine.dcm.frames')).body)
//   const [start, stop] = frames[41][0]
//   await fetch('cine.dcm', { headers: { Range: `bytes=${start}-${stop - 1}` } })
export async function readIndexFile(stream) {
  const unpacked = new Response(stream.pipeThrough(new DecompressionStream('gzip')))
  const buffer = await unpacked.arrayBuffer()
  const behind = new Uint8Array(buffer).indexOf(10) + 1 // 10: line feed
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 0, behind)))
  if (facts.format !== 'multiframe frames' || facts.version !== 1) throw new Error('an index file of another version')
  const { native, items, first_item } = facts
  const frames = []
  if (native) {
    // A frame of 1-bit cells may begin inside a byte: then bit k * native.bits % 8 is its first.
    for (let k = 0; k < facts.frames; k++) {
      const first = k * native.bits
      frames.push([[native.start + Math.floor(first / 8), native.start + Math.ceil((first + native.bits) / 8)]])
    }
    return { facts, frames }
  }
  const lengths = new Uint32Array(buffer, behind, items)
  const counts = new Uint32Array(buffer, behind + 4 * items)
  let fragments = []
  let at = first_item
  for (const length of lengths) {
    if (length) fragments.push([at + 8, at + 8 + length])
    if (fragments.length === (counts.length ? counts[frames.length] : 1)) {
      frames.push(fragments)
      fragments = []
    }
    at += 8 + length
  }
  return { facts, frames }
}
