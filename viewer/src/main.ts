/** Knows how the app starts, which page an address means, and the handle for tests. */

import './style.css';
import { Client } from './dicom/client';
import { StudiesPage } from './pages/studies';
import { StudyPage } from './pages/study';
import { parseRoute } from './route';
import type { Stage } from './stack/stage';
import { takeToken } from './token';

takeToken(location, history, sessionStorage);

const options = new URLSearchParams(location.search);
const client = new Client(options.get('root') ?? 'dicom-web', document.baseURI);
const app = document.getElementById('app') as HTMLElement;

let page: StudiesPage | StudyPage | undefined;

async function follow(): Promise<void> {
  const route = parseRoute(location.hash);
  if (route.page === 'studies') {
    const next = new StudiesPage(client);
    put(next);
    next.start();
    return;
  }
  let study: StudyPage;
  if (page instanceof StudyPage && page.study === route.study) study = page;
  else put((study = new StudyPage(client, route.study, options)));
  if (route.page === 'study') {
    await study.choose();
    return;
  }
  const stage = await study.open(route, route.frame);
  if (stage) expose(stage);
}

function put(next: StudiesPage | StudyPage): void {
  page?.close();
  page = next;
  app.replaceChildren(next.element);
}

/** What an external browser test may read and do. Frame numbers are 1-based. */
export interface TestHandle {
  painted(): number | null;
  asked(): number;
  goto(frame: number): void;
  play(): void;
  pause(): void;
  stats(): { bytesFetched: number; framesCached: number; cacheBytes: number; fps: number };
  ready: Promise<void>;
}

declare global {
  interface Window {
    multiframe: TestHandle;
  }
}

const firstStage = Promise.withResolvers<void>();

window.multiframe = {
  painted: () => null,
  asked: () => 0,
  goto: () => undefined,
  play: () => undefined,
  pause: () => undefined,
  stats: () => ({ bytesFetched: 0, framesCached: 0, cacheBytes: 0, fps: 0 }),
  ready: firstStage.promise,
};
firstStage.promise.catch(() => undefined);

function expose(stage: Stage): void {
  stage.ready.then(firstStage.resolve, firstStage.reject);
  window.multiframe = {
    painted: () => stage.painted(),
    asked: () => stage.asked(),
    goto: (frame) => stage.goto(frame),
    play: () => stage.play(),
    pause: () => stage.pause(),
    stats: () => stage.stats(),
    ready: stage.ready,
  };
}

addEventListener('hashchange', () => {
  takeToken(location, history, sessionStorage);
  void follow();
});
void follow();
