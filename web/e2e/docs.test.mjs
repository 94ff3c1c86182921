// The API's description in a browser: drawn, with nothing from elsewhere.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { launch, Visitor } from './browser.mjs';
import { startGateway } from './gateway.mjs';

const TIME = { timeout: 120_000 };

describe('the API, to read', () => {
  let gateway;
  let browser;

  before(async () => {
    gateway = await startGateway({ TEMPLATES__BASE__POOL: '0' });
    browser = await launch();
  }, TIME);

  after(async () => {
    await browser?.close();
    await gateway?.stop();
  });

  it('shows every operation, and asks nobody else', TIME, async () => {
    const visitor = await Visitor.open(browser, 'about:blank');
    const elsewhere = [];
    visitor.page.on('request', (request) => {
      if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(gateway.url))
        elsewhere.push(request.url());
    });
    await visitor.page.goto(`${gateway.url}/docs`);
    for (const operation of ['Create a sandbox', 'List sandboxes', 'End a sandbox']) {
      await visitor.page.getByText(operation, { exact: true }).first().waitFor();
    }
    assert.deepEqual(elsewhere, []);
    assert.deepEqual(visitor.errors, []);
    await visitor.context.close();
  });
});
