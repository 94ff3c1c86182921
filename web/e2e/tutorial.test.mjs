// The lesson of examples/tutorial, served by its own back end from another origin: a learner goes through all its steps.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { BINARY, startGateway } from './gateway.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const SERVER = fileURLToPath(new URL('../../examples/tutorial/server.mjs', import.meta.url));
const TIME = { timeout: 120_000 };

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

describe('the tutorial', () => {
  let gateway;
  let browser;
  let directory;
  let server;
  let origin;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    directory = mkdtempSync(join(tmpdir(), 'belljar-e2e-tutorial-'));
    const file = (name) => join(directory, name);
    const { privateKey, publicKey } = generateKeyPairSync('ed25519');
    writeFileSync(file('embed.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
    writeFileSync(file('embed.pub.pem'), publicKey.export({ type: 'spki', format: 'pem' }));
    writeFileSync(file('belljar.toml'), `[api]\nkeys_file = ${JSON.stringify(file('keys.toml'))}\n`);
    const args = ['key', 'new', '--config', file('belljar.toml'), '--name', 'tutorial', '--scope', 'embed'];
    const { PATH } = process.env;
    const made = execFileSync(BINARY, [...args, '--public-key', file('embed.pub.pem')], { env: { PATH } });
    const [, kid] = /blj_([0-9a-f]{12})/.exec(made.toString()) ?? assert.fail(made.toString());
    const port = await freePort();
    origin = `http://127.0.0.1:${port}`;
    gateway = await startGateway({
      ALLOWED_ORIGINS: JSON.stringify([origin]),
      API__KEYS_FILE: file('keys.toml'),
      TEMPLATES__BASE__POOL: '0',
    });
    const env = {
      PATH,
      PORT: String(port),
      ORIGIN: origin,
      BELLJAR_URL: gateway.url,
      BELLJAR_KEY: file('embed.pem'),
      BELLJAR_KID: kid,
    };
    server = spawn(process.execPath, [SERVER], { env, stdio: ['ignore', 'pipe', 'inherit'] });
    await once(server.stdout, 'data');
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    server?.kill();
    await gateway?.stop();
    rmSync(directory, { recursive: true });
  });

  const visit = async (options = {}) => {
    const learner = await Visitor.open(browser, origin, options);
    await learner.prompt();
    return learner;
  };

  const check = async ({ page }, name) => {
    await page.screenshot({ path: `${SCREENSHOTS}${name}.png` });
    assert.deepEqual(await flaws(page), [], name);
  };

  const allowed = ({ errors }) => errors.filter((text) => !/403/.test(text));

  it('ticks each step when its result stands on the screen, and not before', TIME, async () => {
    const learner = await visit({ colorScheme: 'light' });
    const { page } = learner;
    const done = async (count) => {
      await page.getByText(`${count} of 5 steps done`).waitFor();
      assert.equal(await page.locator('.tick').count(), count);
    };
    await done(0);
    // What is typed and not run is no result.
    await page.locator('belljar-terminal').click();
    await page.keyboard.type('echo hello from the jar');
    await learner.sees(/echo hello from the jar$/);
    await page.keyboard.press('Control+c');
    await learner.prompt();
    await done(0);
    const buttons = page.getByRole('button', { name: /^Run: / });
    for (const [number, count] of [1, 2, 3, 4].entries()) {
      await buttons.nth(number).click();
      await done(count);
    }
    await check(learner, 'tutorial-light');
    await page.locator('belljar-terminal').click();
    await page.keyboard.type("echo 'echo Hello, Ada!' > hello.sh; sh hello.sh\n");
    await page.getByText('All steps done.').waitFor();
    assert.equal(await page.locator('.tick').count(), 5);
    assert.deepEqual(allowed(learner), []);
    await learner.close();
  });

  it('has the terminal above the steps on a phone', TIME, async () => {
    const learner = await visit({ ...PHONE, colorScheme: 'dark' });
    const { page } = learner;
    const [terminal, title] = await Promise.all(
      ['belljar-terminal', 'h1'].map((name) => page.locator(name).boundingBox()),
    );
    assert.ok(terminal.y + terminal.height <= title.y, 'above');
    await page.getByRole('button', { name: 'Run: Make a file' }).click();
    await page.getByText('1 of 5 steps done').waitFor();
    await check(learner, 'tutorial-phone');
    assert.deepEqual(allowed(learner), []);
    await learner.close();
  });

  it('signs tokens that the gateway takes, each once', TIME, async () => {
    const { token } = await (await fetch(`${origin}/token`)).json();
    const ask = (from) =>
      fetch(`${gateway.url}/sessions?embed=${token}`, { method: 'POST', headers: { origin: from } });
    assert.equal((await ask('http://elsewhere.example')).status, 403);
    const made = await ask(origin);
    assert.equal(made.status, 201);
    const session = await made.json();
    assert.deepEqual(session.metadata, { lesson: 'shell' });
    assert.equal((await ask(origin)).status, 403);
    const headers = { authorization: `Bearer ${session.token}` };
    await fetch(`${gateway.url}/sessions/${session.sessionId}`, { method: 'DELETE', headers });
  });
});
