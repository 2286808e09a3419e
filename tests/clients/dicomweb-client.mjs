// dcmjs dicomweb-client in Node.js: `node dicomweb-client.mjs ROOT STUDY SERIES INSTANCE` prints what it was given, as JSON.
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';

const require = createRequire(import.meta.url);
globalThis.XMLHttpRequest = require('xhr2');
const { api } = require('dicomweb-client');
const [url, studyInstanceUID, seriesInstanceUID, sopInstanceUID] = process.argv.slice(2);
const client = new api.DICOMwebClient({ url });
const uids = { studyInstanceUID, seriesInstanceUID, sopInstanceUID };
const sha256 = (data) => createHash('sha256').update(Buffer.from(data)).digest('hex');

const studies = await client.searchForStudies({ queryParams: { StudyInstanceUID: studyInstanceUID } });
const [metadata] = await client.retrieveInstanceMetadata(uids);
const frames = await client.retrieveInstanceFrames({ ...uids, frameNumbers: [1, 3] });
const instance = await client.retrieveInstance(uids);
console.log(JSON.stringify({ studies: studies.length, frames: frames.map(sha256), count: metadata['00280008'].Value[0], bytes: instance.byteLength }));
