import { render } from 'preact';
import { define } from '../define.ts';
import { App } from './app.tsx';
import { begin } from './state.ts';

define(null);
render(<App />, document.getElementById('console') as HTMLElement);
begin();
