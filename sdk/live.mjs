// Runs the live tests and the examples of both SDKs against a real gateway: node sdk/live.mjs
// `BELLJAR_LAUNCHER=process` does without Docker, and isolates nothing.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { startGateway } from '../web/e2e/gateway.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const python = `${root}target/sdk-python/bin/python`;
// Longer than any of these takes, ms.
const LIMIT_MS = 10 * 60_000;

const gateway = await startGateway({ DOCKER__NAMESPACE: 'sdk' });
const environment = { ...process.env, BELLJAR_URL: gateway.url };
delete environment.BELLJAR_API_KEY;

async function run(what, command, args, cwd = root) {
  console.log(`\n== ${what}`);
  const child = spawn(command, args, { cwd, env: environment, stdio: 'inherit', timeout: LIMIT_MS });
  const [code, signal] = await once(child, 'exit');
  if (code !== 0) throw new Error(`${what}: ended with ${code ?? signal}`);
}

let failed = false;
try {
  await run('Python, live', python, ['-m', 'pytest', 'tests/live'], `${root}sdk/python`);
  await run('TypeScript, live', 'npm', ['run', '--silent', 'live'], `${root}sdk/typescript`);
  for (const example of ['opensandbox.py', 'opensandbox_sync.py', 'kubebox.py']) {
    await run(example, python, [`examples/sdk/${example}`]);
  }
  for (const example of ['opensandbox.mjs', 'kubebox.mjs']) {
    await run(example, process.execPath, [`examples/sdk/${example}`]);
  }
} catch (error) {
  failed = true;
  console.error(String(error));
  console.error(gateway.log());
} finally {
  await gateway.stop();
}
process.exitCode = failed ? 1 : 0;
