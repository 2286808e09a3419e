// dcmjs dicomweb-client in Node.js, as OHIF stores with it: `node store.mjs ROOT STUDY FILE...` prints the answer.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const require = createRequire(import.meta.url);
globalThis.XMLHttpRequest = require('xhr2');
const { api } = require('dicomweb-client');
const [url, studyInstanceUID, ...files] = process.argv.slice(2);
const client = new api.DICOMwebClient({ url, verbose: false });
const datasets = files.map((file) => { const b = readFileSync(file); return b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength); });
const answer = await client.storeInstances(studyInstanceUID === '-' ? { datasets } : { datasets, studyInstanceUID });
console.log(typeof answer === 'string' ? answer : JSON.stringify(answer));
