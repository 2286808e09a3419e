import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  logLevel: 'warn',
  build: { target: 'es2022', chunkSizeWarningLimit: 9000, rollupOptions: { input: 'cornerstone3d.html' } },
  worker: { format: 'es' },
});
