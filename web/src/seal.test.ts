import { expect, it } from 'vitest';
import { readSeal } from './seal.ts';

it.each([
  [{ isOpen: true, sealed: true }, 'sealed'],
  [{ isOpen: false, sealed: true }, 'sealed'],
  [{ isOpen: true, sealed: false }, 'unsealed'],
  [{ isOpen: false, sealed: false }, null],
  [{ isOpen: true }, null],
  [{ isOpen: true, sealed: 'true' }, null],
  [null, null],
  ['sealed', null],
])('takes %j for %s', (status, seal) => {
  expect(readSeal(status)).toBe(seal);
});
