// The element and the frame in somebody else's page: of a site that may, and of one that may not.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, randomUUID, sign } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { launch, PHONE, Visitor } from './browser.mjs';
import { BINARY, startGateway } from './gateway.mjs';
import { page, startSite } from './site.mjs';

const TIME = { timeout: 120_000 };

describe('a terminal in the page of another site', () => {
  let gateway;
  let browser;
  let site;
  let stranger;
  let visitor;

  before(async () => {
    site = await startSite();
    stranger = await startSite(site.pages);
    gateway = await startGateway({ ALLOWED_ORIGINS: site.url });
    // The two lines of the README.
    site.pages['/'] = page(`<script type="module" src="${gateway.url}/embed.js"></script>
<belljar-terminal></belljar-terminal>`);
    site.pages['/tutorial'] = page(`<script type="module" src="${gateway.url}/embed.js"></script>
<pre id="step">echo from=$((40+2))
echo second=$((40+3))
</pre>
<button data-belljar-run data-belljar-text="#step">Run the step</button>
<button data-belljar-run="#terminal">echo own=$((40+4))</button>
<belljar-terminal id="terminal" command="echo once=$((40+1))" autostart></belljar-terminal>`);
    const frame = `<iframe title="Terminal" src="${gateway.url}/embed?theme=dark&amp;command=echo+framed%3D%24((40%2B2))&amp;src=x"
      width="800" height="400" allow="fullscreen; clipboard-write"></iframe>`;
    site.pages['/frame'] = page(frame);
    site.pages['/whole'] = page(`<iframe title="Page" src="${gateway.url}/"></iframe>`);
    browser = await launch();
  }, TIME);

  afterEach(async () => {
    await visitor?.close();
    visitor = null;
  });

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    site?.stop();
    stranger?.stop();
  });

  it('takes two lines', TIME, async () => {
    visitor = await Visitor.open(browser, site.url);
    await visitor.page.getByRole('button', { name: 'Start' }).click();
    await visitor.prompt();
    await visitor.run('echo sum=$((40+2))');
    await visitor.sees(/^sum=42$/m);
    assert.deepEqual(visitor.errors, []);
  });

  it('comes back to its shell, and can be shared, from there too', TIME, async () => {
    visitor = await Visitor.open(browser, `${site.url}/tutorial`, { permissions: ['clipboard-write'] });
    await visitor.run('X=42');
    await visitor.prompt();
    await visitor.page.reload();
    await visitor.is('connected');
    await visitor.run('echo "X is $X"');
    await visitor.sees(/^X is 42$/m);
    assert.equal((await visitor.text()).match(/^once=41$/gm).length, 1, 'the command was run again');
    await visitor.page.getByRole('button', { name: 'Share' }).click();
    const shown = () =>
      document.querySelector('belljar-terminal').shadowRoot.querySelector('.panel-link').value;
    const link = await (await visitor.page.waitForFunction(shown)).jsonValue();
    assert.ok(link.startsWith(`${gateway.url}/#share=`), link);
  });

  it('runs the steps of the page', TIME, async () => {
    visitor = await Visitor.open(browser, `${site.url}/tutorial`);
    await visitor.sees(/^once=41$/m);
    await visitor.page.getByRole('button', { name: 'Run the step' }).click();
    await visitor.sees(/^from=42$/m);
    await visitor.sees(/^second=43$/m);
    await visitor.page.getByRole('button', { name: 'echo own' }).click();
    await visitor.sees(/^own=44$/m);
    assert.deepEqual(visitor.errors, []);
  });

  it('may not be opened from a site that is not allowed', TIME, async () => {
    visitor = await Visitor.open(browser, stranger.url);
    await visitor.page.getByRole('button', { name: 'Start' }).click();
    const { end } = await visitor.is('ended');
    assert.equal(end.error.code, 'origin_refused');
    await visitor.page.getByText('Not from this page').first().waitFor();
  });

  it('works under a strict policy of the site', TIME, async () => {
    const strict = await startSite(
      site.pages,
      `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src ${gateway.url}; connect-src ${gateway.url} ${gateway.url.replace('http', 'ws')}`,
    );
    try {
      visitor = await Visitor.open(browser, strict.url);
      await visitor.page.getByRole('button', { name: 'Start' }).click();
      // Its origin is not allowed; what counts here is that nothing else was in the way.
      assert.equal((await visitor.is('ended')).end.error.code, 'origin_refused');
      assert.deepEqual(visitor.errors, []);
    } finally {
      strict.stop();
    }
  });

  it('can be a frame, with settings in its address', TIME, async () => {
    visitor = await Visitor.open(browser, `${site.url}/frame`);
    const frame = visitor.page.frameLocator('iframe[title=Terminal]').locator('belljar-terminal');
    await frame.waitFor();
    const text = () => frame.evaluate((terminal) => terminal.text());
    await until(async () => /^framed=42$/m.test(await text()), 'the command of the address');
    assert.equal(await frame.getAttribute('theme'), 'dark');
    assert.equal(await frame.getAttribute('src'), '.');
    assert.deepEqual(visitor.errors, []);
  });

  it('hears the page around its frame, and no other', TIME, async () => {
    visitor = await Visitor.open(browser, `${site.url}/frame`);
    const frame = visitor.page.frameLocator('iframe[title=Terminal]').locator('belljar-terminal');
    await until(() => frame.evaluate((terminal) => terminal.state?.name === 'connected'), 'connected');
    const told = await visitor.page.evaluate(
      () =>
        new Promise((resolve) => {
          const { contentWindow } = document.querySelector('iframe');
          addEventListener('message', ({ data, origin }) => resolve({ data, origin }));
          contentWindow.postMessage({ belljar: 'run', text: 'echo asked=$((40+3))' }, '*');
          contentWindow.postMessage({ belljar: 'state' }, '*');
        }),
    );
    assert.deepEqual(told, { data: { belljar: 'state', state: 'connected' }, origin: gateway.url });
    const text = () => frame.evaluate((terminal) => terminal.text());
    await until(async () => /^asked=43$/m.test(await text()), 'what the page has asked for');
    // A frame beside it is a window of the same site, but not the page around.
    await visitor.page.evaluate(() => {
      const other = document.createElement('iframe');
      document.body.append(other);
      const script = other.contentDocument.createElement('script');
      script.textContent =
        'parent.frames[0].postMessage({ belljar: "run", text: "echo strange=$((40+4))" }, "*")';
      other.contentDocument.body.append(script);
      document
        .querySelector('iframe')
        .contentWindow.postMessage({ belljar: 'run', text: 'echo last=$((40+5))' }, '*');
    });
    await until(async () => /^last=45$/m.test(await text()), 'the last');
    assert.doesNotMatch(await text(), /strange/);
  });

  it('is no frame in a site that is not allowed, and the whole page is nobody’s', TIME, async () => {
    for (const address of [`${stranger.url}/frame`, `${site.url}/whole`]) {
      visitor = await Visitor.open(browser, address);
      const refused = () => visitor.errors.some((error) => error.includes('frame-ancestors'));
      await until(async () => refused(), `${address} is refused`);
      assert.equal(await visitor.page.frameLocator('iframe').locator('belljar-terminal').count(), 0);
      await visitor.close();
    }
    visitor = null;
  });

  it('goes to another template when the page says so', TIME, async () => {
    visitor = await Visitor.open(browser, site.url, PHONE);
    const set = (name, value) =>
      visitor.page.evaluate(
        ([n, v]) => {
          document.querySelector('belljar-terminal')[n] = v;
        },
        [name, value],
      );
    await set('template', 'nothing-of-the-kind');
    await set('autostart', true);
    const { end } = await visitor.is('ended');
    assert.equal(end.error.code, 'no_such_template');
    await set('template', 'base');
    await visitor.page.getByRole('button', { name: 'Start' }).click();
    await visitor.prompt();
  });
});

describe('a site that signs its visitors in', () => {
  let gateway;
  let browser;
  let site;
  let home;
  let kid;
  const keys = generateKeyPairSync('ed25519');

  before(async () => {
    home = mkdtempSync(join(tmpdir(), 'belljar-e2e-keys-'));
    const settings = { API__KEYS_FILE: join(home, 'keys.toml'), API__EMBED_ONLY: 'true' };
    writeFileSync(join(home, 'public.pem'), keys.publicKey.export({ type: 'spki', format: 'pem' }));
    const made = execFileSync(
      BINARY,
      ['key', 'new', '--name', 'site', '--scope', 'embed', '--public-key', join(home, 'public.pem')],
      { env: { PATH: process.env.PATH, BELLJAR_API__KEYS_FILE: settings.API__KEYS_FILE }, encoding: 'utf8' },
    );
    [, kid] = made.match(/blj_([0-9a-f]{12})/);
    gateway = await startGateway(settings);
    site = await startSite();
    site.pages['/'] = page(`<script type="module" src="${gateway.url}/embed.js"></script>
<belljar-terminal></belljar-terminal>`);
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    site?.stop();
    rmSync(home, { recursive: true });
  });

  /** A token for a visitor of the site, as its back end makes it. */
  const token = () => {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const iat = Math.floor(Date.now() / 1000);
    const claims = { aud: 'belljar', iat, exp: iat + 60, jti: randomUUID(), origin: site.url };
    const text = `${part({ alg: 'EdDSA', kid })}.${part(claims)}`;
    return `${text}.${sign(null, Buffer.from(text), keys.privateKey).toString('base64url')}`;
  };

  it('lets in who has a token, once, and nobody else', TIME, async () => {
    const visitor = await Visitor.open(browser, site.url);
    const set = (value) =>
      visitor.page.evaluate((given) => {
        document.querySelector('belljar-terminal').token = given;
      }, value);
    await visitor.page.getByRole('button', { name: 'Start' }).click();
    assert.equal((await visitor.is('ended')).end.error.code, 'token_refused');
    await set(token());
    await visitor.page.getByRole('button', { name: 'Start again' }).click();
    await visitor.prompt();
    await visitor.run('X=42');
    // The same page again, with a token that was used: the session is the tab's all the same.
    await visitor.page.reload();
    await visitor.page.getByRole('button', { name: 'Start' }).click();
    await visitor.is('connected');
    await visitor.run('echo "X is $X"; exit');
    await visitor.sees(/^X is 42$/m);
    await visitor.is('ended');
    await set(token());
    await visitor.page.getByRole('button', { name: 'Start again' }).click();
    await visitor.prompt();
    await visitor.close();
  });
});

async function until(probe, what, ms = 20_000) {
  const deadline = Date.now() + ms;
  while (!(await probe())) {
    if (Date.now() > deadline) throw new Error(`not after ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
