// What is wrong with a page that a look at it does not show.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What axe-core has to say, in few words. Evaluated, because the content security policy refuses strange scripts. */
export async function violations(page, options = {}) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async (options) => (await window.axe.run(options)).violations, options);
  return found.map(
    ({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target.flat().join(' ')).join(', ')}`,
  );
}

/** The same, and whether the page scrolls sideways. */
export async function flaws(page, options) {
  const fits = await page.evaluate(() => {
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth === clientWidth;
  });
  return [...(fits ? [] : ['it scrolls sideways']), ...(await violations(page, options))];
}
