import { expect, it } from 'vitest';
import { readCopy } from './clipboard.ts';

const base64 = (text: string) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

it('a program may copy text', () => {
  expect(readCopy(`c;${base64('déjà vu 🫙')}`)).toBe('déjà vu 🫙');
  expect(readCopy(`;${base64('x')}`)).toBe('x');
});

it('and nothing else: no query, no clearing, no bytes that are no text, no flood', () => {
  for (const data of ['c;?', 'c;', '', ';', 'c', 'x;eA==', 'c;%%%', 'c;/w==', `c;${'A'.repeat(100_001)}`]) {
    expect(readCopy(data), data.slice(0, 20)).toBeNull();
  }
});
