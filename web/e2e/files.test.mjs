// Files that a visitor brings into the sandbox and takes out of it.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { flaws } from './axe.mjs';
import { launch, PHONE, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';

const SCREENSHOTS = fileURLToPath(new URL('./screenshots/', import.meta.url));
const TIME = { timeout: 120_000 };

describe('files', () => {
  let gateway;
  let browser;

  before(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true });
    gateway = await startGateway({ TEMPLATES__BASE__POOL: '0' });
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  const open = async (visitor) => {
    await visitor.page.getByRole('button', { name: 'Tools' }).click();
    await visitor.page.getByRole('button', { name: 'Files', exact: true }).click();
  };

  it('are chosen and brought, and downloaded', TIME, async () => {
    const visitor = await Visitor.open(browser, gateway.url);
    const { page } = visitor;
    await visitor.prompt();
    await open(visitor);
    const file = (name, text) => ({ name, mimeType: 'text/plain', buffer: Buffer.from(text) });
    const choose = page.locator('input[type=file]');
    await choose.setInputFiles([file('a note.txt', 'one\n'), file('other.txt', 'two\n')]);
    await page.locator('.files-said', { hasText: '2 files are there.' }).waitFor();
    await visitor.run("cat 'a note.txt' other.txt; echo answer > back.txt");
    await visitor.sees(/^one\ntwo$/m);
    await page.getByLabel('File to download').fill('back.txt');
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Download' }).click(),
    ]);
    assert.equal(download.suggestedFilename(), 'back.txt');
    assert.equal(readFileSync(await download.path(), 'utf8'), 'answer\n');
    await page.screenshot({ path: `${SCREENSHOTS}files.png` });
    assert.deepEqual(await flaws(page), []);

    await page.getByLabel('File to download').fill('nothing.txt');
    await page.getByRole('button', { name: 'Download' }).click();
    await page.locator('.files-said', { hasText: 'nothing.txt' }).waitFor();
    // The home directory has room for one of them.
    await choose.setInputFiles(file('large', 'x'.repeat(30e6)));
    await page.locator('.files-said', { hasText: 'large is there.' }).waitFor();
    await choose.setInputFiles(file('larger', 'x'.repeat(30e6)));
    await page.locator('.files-said', { hasText: 'larger was not brought. ' }).waitFor();
    await visitor.close();
  });

  it('are dropped on the terminal, of a phone too', TIME, async () => {
    const visitor = await Visitor.open(browser, gateway.url, { ...PHONE, colorScheme: 'dark' });
    const { page } = visitor;
    await visitor.prompt();
    const drag = (type) =>
      page.evaluate((type) => {
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File(['dropped\n'], 'dropped.txt'));
        const frame = document.querySelector('belljar-terminal').shadowRoot.querySelector('.frame');
        frame.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
      }, type);
    await drag('dragover');
    await page.getByText('Drop files to put them').waitFor();
    await page.screenshot({ path: `${SCREENSHOTS}files-drop-phone.png` });
    await drag('drop');
    await page.locator('.bar', { hasText: 'dropped.txt is there.' }).waitFor();
    await page.getByText('Drop files to put them').waitFor({ state: 'hidden' });
    await visitor.run('cat dropped.txt');
    await visitor.sees(/^dropped$/m);
    await open(visitor);
    await page.screenshot({ path: `${SCREENSHOTS}files-phone.png` });
    assert.deepEqual(await flaws(page), []);
    await visitor.close();
  });
});
