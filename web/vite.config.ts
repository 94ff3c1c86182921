import { defineConfig } from 'vitest/config';

export default defineConfig({
  // Relative addresses, so that the page also works under a path prefix behind a proxy.
  base: './',
  build: {
    target: 'es2022',
    license: { fileName: 'assets/licenses.md' },
    modulePreload: {
      // Every browser that has the features of `target` also preloads modules by itself.
      polyfill: false,
      // What is imported late imports nothing by itself.
      resolveDependencies: (_, assets, { hostType }) => (hostType === 'html' ? assets : []),
    },
    rolldownOptions: {
      input: {
        index: 'index.html',
        docs: 'docs.html',
        console: 'console.html',
        frame: 'embed.html',
        embed: 'src/embed.ts',
      },
      preserveEntrySignatures: 'allow-extension',
      output: {
        // The one script whose name others write into their pages.
        entryFileNames: ({ name }) => (name === 'embed' ? 'embed.js' : 'assets/[name]-[hash].js'),
        // xterm.js changes far less often than this code: a file of its own stays in visitors' caches.
        codeSplitting: {
          groups: [{ name: 'xterm', test: /node_modules\/@xterm\/(?!addon-(?:image|search|webgl))/ }],
        },
      },
    },
  },
  server: {
    proxy: {
      '/ws': { target: 'http://127.0.0.1:3001', ws: true },
      '/sessions': { target: 'http://127.0.0.1:3001', ws: true },
      '/status': { target: 'http://127.0.0.1:3001' },
      '/api': { target: 'http://127.0.0.1:3001' },
    },
  },
  test: { include: ['src/**/*.test.ts'] },
});
