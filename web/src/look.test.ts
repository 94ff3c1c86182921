import { expect, it } from 'vitest';
import { lookFor } from './look.ts';

const AROUND = { scheme: 'normal', dark: false, contrast: false };

it('a page that asks for colours gets them', () => {
  const around = { scheme: 'dark', dark: true, contrast: true };
  expect(lookFor('light', around)).toBe('light');
  expect(lookFor('dark', AROUND)).toBe('dark');
  expect(lookFor('contrast', AROUND)).toBe('contrast');
});

it('otherwise it is as the page around, which may leave that to the system', () => {
  for (const scheme of ['dark', 'only dark', 'dark only'])
    expect(lookFor('auto', { ...AROUND, scheme })).toBe('dark');
  for (const scheme of ['light', 'only light']) {
    expect(lookFor('auto', { ...AROUND, scheme, dark: true })).toBe('light');
  }
  for (const scheme of ['normal', 'light dark', 'dark light']) {
    expect(lookFor('auto', { ...AROUND, scheme })).toBe('light');
    expect(lookFor('auto', { ...AROUND, scheme, dark: true })).toBe('dark');
  }
});

it('who needs contrast gets it', () => {
  expect(lookFor('auto', { ...AROUND, scheme: 'light', contrast: true })).toBe('contrast');
});
