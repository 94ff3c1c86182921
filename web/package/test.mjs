// The packed package as somebody else's dependency: installed from its tarball, with types, bundled by their tools.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const { name, version, dependencies } = JSON.parse(readFileSync(path('package.json'), 'utf8'));
const TARBALL = path(`../../target/web-package/${name}-${version}.tgz`);
const MODULES = path('../node_modules');

/** Uses everything that the package says it has; the last line must not compile. */
const PROGRAM = `
import { BelljarTerminal, type Exit, type Ready, type State, type Theme } from 'belljar-terminal';

const terminal: BelljarTerminal = document.createElement('belljar-terminal');
const theme: Theme = 'contrast';
Object.assign(terminal, { src: 'https://terminals.example.com', template: 'base', theme, fontSize: 16 });
terminal.readOnly = false;
terminal.addEventListener('ready', ({ detail }) => use(detail));
terminal.addEventListener('exit', ({ detail }) => console.log((detail satisfies Exit).reason));
const use = (ready: Ready) => console.log(ready.session);
const state: State = terminal.state;
document.body.append(terminal);
if (state.name === 'idle') terminal.run('ls');
terminal.resize(80, 24);
terminal.paste('x');
terminal.restart();
// @ts-expect-error: there is no such theme.
terminal.theme = 'pink';
`;

const home = mkdtempSync(join(tmpdir(), 'belljar-package-'));
try {
  const modules = join(home, 'node_modules');
  mkdirSync(join(modules, name), { recursive: true });
  execFileSync('tar', ['-xzf', TARBALL, '-C', join(modules, name), '--strip-components=1']);
  // Nothing but what the package says it needs.
  mkdirSync(join(modules, '@xterm'));
  for (const needed of Object.keys(dependencies)) symlinkSync(join(MODULES, needed), join(modules, needed));
  writeFileSync(join(home, 'package.json'), '{"type":"module"}');
  writeFileSync(join(home, 'main.ts'), PROGRAM);
  const compiler = {
    strict: true,
    noEmit: true,
    target: 'es2022',
    lib: ['es2023', 'dom', 'dom.iterable'],
    types: [],
  };
  for (const [module, moduleResolution] of [
    ['esnext', 'bundler'],
    ['nodenext', 'nodenext'],
  ]) {
    const config = { compilerOptions: { ...compiler, module, moduleResolution }, files: ['main.ts'] };
    writeFileSync(join(home, 'tsconfig.json'), JSON.stringify(config));
    run('tsc', '-p', 'tsconfig.json');
  }
  writeFileSync(join(home, 'index.html'), '<script type="module" src="./main.ts"></script>');
  run('vite', 'build', '--logLevel', 'warn');
  const page = readFileSync(join(home, 'dist/index.html'), 'utf8');
  const [, script] = page.match(/src="\/(assets\/[^"]+\.js)"/);
  assert.match(readFileSync(join(home, 'dist', script), 'utf8'), /belljar-terminal/);
  console.log(`${name} ${version} works from its tarball: types, bundle`);
} finally {
  rmSync(home, { recursive: true });
}

function run(tool, ...args) {
  execFileSync(join(MODULES, '.bin', tool), args, { cwd: home, stdio: 'inherit' });
}
