// The API's page in a browser: whole, quick, for everybody, with nothing from elsewhere. Leaves screenshots in
// e2e/screenshots/.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';
import { keysFile, newKey } from './keys.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const SPEC = JSON.parse(readFileSync(new URL('../../docs/openapi.json', import.meta.url), 'utf8'));
const OPERATIONS = Object.values(SPEC.paths).flatMap((item) => Object.values(item));
const TIME = { timeout: 120_000 };

describe('the API, to read', () => {
  let gateway;
  let browser;
  let directory;
  let key;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    directory = mkdtempSync(join(tmpdir(), 'belljar-e2e-docs-'));
    key = newKey(directory, 'sandboxes');
    gateway = await startGateway({ TEMPLATES__BASE__POOL: '0', API__KEYS_FILE: keysFile(directory) });
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
    rmSync(directory, { recursive: true });
  });

  /** A reader before whom everything is drawn. */
  const open = async (hash = '', options = {}) => {
    const reader = await Visitor.open(browser, `${gateway.url}/docs${hash}`, options);
    await reader.page.getByRole('article').first().waitFor();
    return reader;
  };
  const count = ({ page }) => page.getByRole('article').count();
  const inView = ({ page }, id) =>
    page.waitForFunction((id) => {
      const { top } = document.getElementById(id).getBoundingClientRect();
      return top >= 0 && top < innerHeight / 2 && document.activeElement.id === `${id}-title`;
    }, id);

  it('shows every operation, and asks nobody else', TIME, async () => {
    const reader = await Visitor.open(browser, 'about:blank');
    const elsewhere = [];
    reader.page.on('request', (request) => {
      if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(gateway.url))
        elsewhere.push(request.url());
    });
    await reader.page.goto(`${gateway.url}/docs`);
    await reader.page.getByRole('article').first().waitFor();
    const titles = await reader.page.getByRole('heading', { level: 3 }).allTextContents();
    assert.deepEqual(titles.toSorted(), OPERATIONS.map(({ summary }) => summary).toSorted());
    assert.deepEqual(elsewhere, []);
    assert.deepEqual(reader.errors, []);
    await reader.close();
  });

  it('is for everybody: light, dark, in contrast, on a phone, all unfolded', {
    timeout: 300_000,
  }, async () => {
    for (const [name, hash, options] of [
      ['docs-light', '', { colorScheme: 'light' }],
      ['docs-dark', '#createSandbox', { colorScheme: 'dark' }],
      ['docs-phone', '#runCommand', { ...PHONE, colorScheme: 'light' }],
      ['docs-phone-dark', '', { ...PHONE, colorScheme: 'dark' }],
      ['docs-contrast', '#createSandbox', { forcedColors: 'active' }],
    ]) {
      const reader = await open(hash, options);
      if (hash !== '') await inView(reader, hash.slice(1));
      await reader.page.screenshot({ path: `${SCREENSHOTS}${name}.png` });
      // All of it once; of the rest, what shows its colours: axe takes long over 10,000 elements.
      const unfolded = name === 'docs-light' ? 'details' : 'article:nth-of-type(-n + 2) details';
      await reader.page.evaluate((which) => {
        for (const folded of document.querySelectorAll(which)) folded.open = true;
      }, unfolded);
      assert.deepEqual(await flaws(reader.page), [], `${name}, unfolded`);
      assert.deepEqual(reader.errors, []);
      await reader.close();
    }
  });

  it('is found through by words, by keys, and by address', TIME, async () => {
    const reader = await open();
    const { page } = reader;
    await page.keyboard.press('Tab');
    assert.equal(await page.evaluate(() => document.activeElement.textContent.trim()), 'To the operations');
    await page.keyboard.press('/');
    await page.keyboard.type('post idempotency');
    await page.getByText('One operation', { exact: true }).waitFor();
    assert.equal(await count(reader), 1);
    await page.keyboard.type(' of no kind');
    await page.getByText('No operation has these words in it.').waitFor();
    assert.deepEqual(await flaws(page), []);
    // An address leads there although the search has put it away.
    await page.evaluate(() => {
      location.hash = '#readFile';
    });
    await inView(reader, 'readFile');
    assert.equal(await count(reader), OPERATIONS.length);
    await page.keyboard.press('/');
    await page.keyboard.type('files');
    await page.keyboard.press('Escape');
    await page.getByText(`${OPERATIONS.length} operations`, { exact: true }).waitFor();
    await page.getByRole('navigation').getByRole('link', { name: 'Open a terminal' }).press('Enter');
    await inView(reader, 'openTerminal');
    assert.match(page.url(), /#openTerminal$/);
    await page.reload();
    await inView(reader, 'openTerminal');
    assert.deepEqual(reader.errors, []);
    await reader.close();
  });

  it('on a phone the list folds itself up when one is chosen', TIME, async () => {
    const reader = await open('', PHONE);
    const { page } = reader;
    const link = page
      .getByRole('navigation')
      .getByRole('link', { name: 'Read a file', exact: false })
      .first();
    assert.equal(await link.isVisible(), false);
    await page.locator('.contents summary').tap();
    await link.tap();
    await inView(reader, 'readFile');
    assert.equal(await link.isVisible(), false);
    await reader.close();
  });

  it('has requests to copy, and they work', TIME, async () => {
    const reader = await open('', { permissions: ['clipboard-read', 'clipboard-write'] });
    await reader.page.getByRole('button', { name: 'Copy: List templates' }).click();
    await reader.page.getByText('Copied', { exact: true }).waitFor();
    const text = await reader.page.evaluate(() => navigator.clipboard.readText());
    const env = { PATH: process.env.PATH, BELLJAR_API_KEY: key };
    // Caddy's own authority is believed by nobody else.
    const curl = text.replace('curl', gateway.caddy === null ? 'curl -sS' : 'curl -sS --insecure');
    const answer = execFileSync('sh', ['-c', curl], { env }).toString();
    assert.ok(
      JSON.parse(answer).some(({ name }) => name === 'base'),
      answer,
    );
    await reader.close();
  });

  it('says when there is no description, and asks again', TIME, async () => {
    const reader = await Visitor.open(browser, 'about:blank');
    const { page } = reader;
    await page.route('**/openapi.json', (route) => route.abort());
    await page.goto(`${gateway.url}/docs`);
    const again = page.getByRole('button', { name: 'Try again' });
    await again.waitFor();
    assert.deepEqual(await flaws(page), []);
    await page.unroute('**/openapi.json');
    await again.click();
    await page.getByRole('article').first().waitFor();
    await reader.close();
  });
});
