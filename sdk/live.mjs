// Both clients against a real gateway: node sdk/live.mjs
//
// Their live tests run with an API key. Without one run the programs of the READMEs and of examples/sdk, with the
// packages that `make sdk` has built. A comment `"2\n"` in a program says what it prints there; so does a comment after
// a shell's line, where … stands for anything. `BELLJAR_LAUNCHER=process` does without Docker, and isolates nothing.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BINARY, startGateway } from '../web/e2e/gateway.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const packages = `${root}target/sdk-packages`;
// As a user's directory: with the packages, and without this repository.
const place = `${root}target/sdk-live`;
const python = `${root}target/sdk-python/bin/python`;
const PROGRAM_MS = 60_000;
const TESTS_MS = 10 * 60_000;
// The built-in templates, with nothing started ahead.
const TEMPLATES = {
  TEMPLATES__BASE__POOL: '0',
  TEMPLATES__PYTHON__MEMORY: '256MiB',
  TEMPLATES__NODE__MEMORY: '256MiB',
};

rmSync(place, { recursive: true, force: true });
mkdirSync(place, { recursive: true });
const found = (ending) =>
  readdirSync(packages)
    .filter((name) => name.endsWith(ending))
    .map((name) => `${packages}/${name}`);
// What the packages depend on comes from the environments of their tests.
execFileSync(python, [
  '-m',
  'pip',
  'install',
  '--quiet',
  '--no-index',
  '--no-deps',
  '--target',
  `${place}/python`,
  ...found('.whl'),
]);
writeFileSync(`${place}/package.json`, '{ "private": true }');
execFileSync('npm', ['install', '--silent', '--offline', '--no-audit', '--no-fund', ...found('.tgz')], {
  cwd: place,
});

/** Against a gateway, with what it logged if something fails. */
async function against(settings, variables, work) {
  const gateway = await startGateway({ DOCKER__NAMESPACE: 'sdk', ...TEMPLATES, ...settings });
  const environment = {
    ...process.env,
    PYTHONPATH: `${place}/python`,
    BELLJAR_URL: gateway.url,
    ...variables,
  };
  try {
    await work(gateway, environment);
  } catch (error) {
    console.error(gateway.log());
    throw error;
  } finally {
    await gateway.stop();
  }
}

async function tests(what, command, args, cwd, env) {
  console.log(`\n== ${what}`);
  const child = spawn(command, args, { cwd, env, stdio: 'inherit', timeout: TESTS_MS });
  const [code, signal] = await once(child, 'exit');
  if (code !== 0) throw new Error(`${what}: ended with ${code ?? signal}`);
}

/** Runs a program, and looks for what it says that it prints. */
function program(name, file, text, env) {
  writeFileSync(`${place}/${file}`, text);
  const [command, ...args] = {
    '.py': [python, '-W', 'error'],
    '.mjs': ['node'],
    '.sh': ['bash', '-euo', 'pipefail'],
  }[extname(file)];
  const printed = execFileSync(command, [...args, file], {
    cwd: place,
    env,
    encoding: 'utf8',
    timeout: PROGRAM_MS,
  });
  let rest = printed;
  const claims = promises(text, extname(file));
  for (const claim of claims) {
    const at = rest.indexOf(claim);
    if (at < 0)
      throw new Error(`${name}: does not print ${JSON.stringify(claim)}, but ${JSON.stringify(printed)}`);
    rest = rest.slice(at + claim.length);
  }
  console.log(`${name}: ran, and printed the ${claims.length} things that it says`);
}

function promises(text, language) {
  if (language === '.sh') {
    const comments = [...text.matchAll(/ {2,}# (.+)$/gm)];
    return comments.flatMap(([, comment]) => comment.split('…')).filter((piece) => piece !== '');
  }
  return [...text.matchAll(/(?:#|\/\/) ("(?:[^"\\]|\\.)*")$/gm)].map(([, string]) => JSON.parse(string));
}

/** The programs of a README: in Python and in TypeScript all of them, in the shell those that call the API. */
function* blocks(readme) {
  const fences = readFileSync(`${root}${readme}`, 'utf8').matchAll(
    /^```(python|typescript|sh)\n(.*?)^```$/gms,
  );
  for (const [number, [, language, text]] of [...fences].entries()) {
    if (language === 'sh' && !text.includes('/api/v1')) continue;
    const ending = { python: 'py', typescript: 'mjs', sh: 'sh' }[language];
    yield [`${readme}, ${language}`, `readme-${number}.${ending}`, text];
  }
}

try {
  await against({}, { BELLJAR_API_KEY: '' }, (gateway, env) => {
    console.log('\n== the programs of READMEs and examples');
    for (const readme of ['README.md', 'sdk/python/README.md', 'sdk/typescript/README.md']) {
      for (const [name, file, text] of blocks(readme)) {
        program(name, file, text.replaceAll('http://127.0.0.1:3001', gateway.url), env);
      }
    }
    for (const file of readdirSync(`${root}examples/sdk`)) {
      program(`examples/sdk/${file}`, file, readFileSync(`${root}examples/sdk/${file}`, 'utf8'), env);
    }
  });
  const keys = { BELLJAR_API__KEYS_FILE: `${place}/keys.toml` };
  const made = execFileSync(BINARY, ['key', 'new', '--name', 'live tests', '--scope', 'admin'], {
    env: { ...process.env, ...keys },
    encoding: 'utf8',
    stdio: 'pipe',
  });
  await against(
    { API__KEYS_FILE: keys.BELLJAR_API__KEYS_FILE },
    { BELLJAR_API_KEY: made.trim() },
    async (_, env) => {
      await tests('Python, live', python, ['-m', 'pytest', 'tests/live'], `${root}sdk/python`, env);
      await tests('TypeScript, live', 'npm', ['run', '--silent', 'live'], `${root}sdk/typescript`, env);
    },
  );
  console.log('\nBoth clients work against a live gateway.');
} catch (error) {
  console.error(String(error));
  process.exitCode = 1;
}
