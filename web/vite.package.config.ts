import { defineConfig } from 'vite';

/** What `package/package.json` depends on stays an import, but style sheets become a part of the element. */
const isDependency = (id: string) => /^(@xterm\/|asciinema-player)/.test(id) && !id.includes('.css');

/** The package `belljar-terminal`: `package/dist`. */
export default defineConfig({
  build: {
    target: 'es2022',
    outDir: 'package/dist',
    license: { fileName: 'licenses.md' },
    lib: { entry: 'src/index.ts', formats: ['es'], fileName: 'index' },
    rolldownOptions: { external: isDependency },
  },
});
