/**
 * Knows which packages end up in the build, and writes their licences beside it.
 *
 * What is listed is what the bundler really put in: every module of every chunk, the workers'
 * chunks included, and every file (WebAssembly) that was emitted from a package's folder.
 */

import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { Plugin } from 'vite';

const FILE = 'THIRD_PARTY_NOTICES.txt';
const LICENCE_FILE = /^(licen[cs]e|copying|notice)([.-].*)?$/i;
/** What was compiled into a codec's WebAssembly; the npm package names only its own wrapper. */
const COMPILED_IN: Record<string, string[]> = {
  '@cornerstonejs/codec-charls': ['charls'],
  '@cornerstonejs/codec-libjpeg-turbo-8bit': ['libjpeg-turbo'],
  '@cornerstonejs/codec-libjxl': ['libjxl', 'highway', 'brotli'],
  '@cornerstonejs/codec-openjpeg': ['openjpeg'],
  '@cornerstonejs/codec-openjph': ['openjph'],
};
const RULE = '-'.repeat(78);

interface PackageFile {
  name: string;
  version: string;
  license?: string | { type: string };
  author?: string | { name: string };
  repository?: string | { url: string };
}

export function notices(): { bundle(): Plugin; worker(): Plugin } {
  const folders = new Set<string>();
  const note = (id: string): void => {
    const folder = packageFolder(id);
    if (folder) folders.add(folder);
  };
  const collect = (bundle: Record<string, { type: string }>): void => {
    for (const output of Object.values(bundle)) {
      if (output.type === 'chunk') {
        const { modules } = output as unknown as { modules: Record<string, { renderedLength: number }> };
        for (const [id, { renderedLength }] of Object.entries(modules)) if (renderedLength > 0) note(id);
      } else {
        const { originalFileNames = [] } = output as unknown as { originalFileNames?: string[] };
        for (const name of originalFileNames) note(join(process.cwd(), name));
      }
    }
  };
  return {
    worker: () => ({
      name: 'multiframe:notices-worker',
      generateBundle(_, bundle) {
        collect(bundle);
      },
    }),
    bundle: () => ({
      name: 'multiframe:notices',
      apply: 'build',
      generateBundle(_, bundle) {
        collect(bundle);
        this.emitFile({ type: 'asset', fileName: FILE, source: write([...folders]) });
      },
    }),
  };
}

/** The nearest folder with a named package.json; inner ones only say "type": "module". */
function packageFolder(id: string): string | undefined {
  const path = id.replace(/^\0/, '').replace(/[?#].*$/, '');
  if (!path.includes('/node_modules/')) return undefined;
  for (let folder = dirname(path); folder.includes('/node_modules/'); folder = dirname(folder)) {
    const file = join(folder, 'package.json');
    if (existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as PackageFile).name) return folder;
  }
  return undefined;
}

function write(folders: string[]): string {
  const packages = folders
    .map((folder) => ({ folder, about: JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as PackageFile }))
    .sort((a, b) => a.about.name.localeCompare(b.about.name) || a.about.version.localeCompare(b.about.version));
  const sections = packages.map(({ folder, about }) => {
    const head = `${about.name} ${about.version}\nLicence: ${licenceName(about)}`;
    return [`${head}\n\n${licenceText(folder, about)}`, ...compiledIn(about.name)].join('\n\n');
  });
  const intro =
    'The multiframe web viewer contains the following packages. Each stands under the licence\n' +
    'given with it.';
  return [intro, ...sections].join(`\n\n${RULE}\n\n`) + '\n';
}

function licenceName({ license }: PackageFile): string {
  if (typeof license === 'string') return license;
  return license?.type ?? 'not stated in package.json';
}

function compiledIn(name: string): string[] {
  return (COMPILED_IN[name] ?? []).map((library) => {
    const text = readFileSync(join(import.meta.dirname, 'licences', `${library}.txt`), 'utf8').trim();
    return `It contains ${library}:\n\n${text}`;
  });
}

/** Monorepos keep one licence at their root and ship packages without it: then it is quoted so. */
function licenceText(folder: string, about: PackageFile): string {
  const files = readdirSync(folder).filter((name) => LICENCE_FILE.test(name));
  if (files.length > 0) {
    return files.map((name) => readFileSync(join(folder, name), 'utf8').trim()).join('\n\n');
  }
  const author = (typeof about.author === 'string' ? about.author : about.author?.name) || undefined;
  const source = typeof about.repository === 'string' ? about.repository : about.repository?.url;
  const holder = author ?? `the authors of ${about.name}`;
  const origin = source ? `\nSource: ${source.replace(/^git\+/, '')}` : '';
  const standard = STANDARD_TEXT[licenceName(about)];
  if (!standard) throw new Error(`${about.name} ships no licence text and ${licenceName(about)} is not known here.`);
  return `The package ships no licence file; it states ${licenceName(about)}.${origin}\n\nCopyright (c) ${holder}\n\n${standard}`;
}

const STANDARD_TEXT: Record<string, string> = {
  MIT: `Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.`,
  ISC: `Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted, provided that the above
copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH
REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY
AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR
OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR
PERFORMANCE OF THIS SOFTWARE.`,
  'BSD-3-Clause': `Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.

3. Neither the name of the copyright holder nor the names of its contributors
   may be used to endorse or promote products derived from this software
   without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.`,
};
