import { render } from 'preact';
import { App } from './app.tsx';
import { read } from './state.ts';

render(<App />, document.getElementById('docs') as HTMLElement);
void read();
