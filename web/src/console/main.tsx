import { render } from 'preact';
import { App } from './app.tsx';
import { begin } from './state.ts';

render(<App />, document.getElementById('console') as HTMLElement);
begin();
