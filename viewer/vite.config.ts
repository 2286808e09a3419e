/**
 * Knows how the viewer is bundled: relative addresses, so that any folder can host it.
 *
 * The dependencies `events` and `url` are not imported here: vtk.js, below cornerstone, expects the
 * modules of that name, and without them the page stays blank.
 */

import { defineConfig } from 'vite';
import { notices } from './build/notices.ts';

const licences = notices();

export default defineConfig({
  base: './',
  plugins: [licences.bundle()],
  build: {
    target: 'es2022',
    chunkSizeWarningLimit: 3500,
    // An inlined file would be a data: URL, which a strict content policy refuses.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  worker: {
    format: 'es',
    plugins: () => [licences.worker()],
  },
  server: {
    proxy: {
      '/dicom-web': 'http://127.0.0.1:8042',
      '/api': 'http://127.0.0.1:8042',
    },
  },
});
