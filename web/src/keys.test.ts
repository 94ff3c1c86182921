import { expect, it } from 'vitest';
import { controlled, sequence } from './keys.ts';

it('arrows are what the program has asked for', () => {
  expect(sequence('up', false, false)).toBe('\x1b[A');
  expect(sequence('left', false, true)).toBe('\x1bOD');
  expect(sequence('right', true, true)).toBe('\x1b[1;5C');
});

it('Esc, Tab and signs are themselves', () => {
  expect(sequence('escape', false, false)).toBe('\x1b');
  expect(sequence('tab', true, false)).toBe('\t');
  expect(sequence('|', false, false)).toBe('|');
});

it('Ctrl counts for one key that has such a meaning', () => {
  expect(controlled('c')).toBe('\x03');
  expect(controlled('D')).toBe('\x04');
  expect(controlled('[')).toBe('\x1b');
  expect(controlled(' ')).toBe('\0');
  expect(sequence('-', true, false)).toBe('\x1f');
  for (const text of ['ls', '', '1', 'é', '\r', '\x1b[A']) expect(controlled(text)).toBe(text);
});
