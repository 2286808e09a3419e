/**
 * Knows mouse, wheel and fingers over the picture. cornerstone's tools turn them into window, zoom
 * and pan; only frames go their own way. Loaded behind the first picture.
 *
 * Its StackScrollTool is not used: it asks the viewport for the next imageId, decoded or not, and
 * the viewport would load it by itself. Here a turn of the wheel or a finger is only a wish, and
 * the stage shows the frame once the feed has it.
 */

import { Settings } from '@cornerstonejs/core';
import {
  BaseTool,
  Enums,
  PanTool,
  ToolGroupManager,
  WindowLevelTool,
  ZoomTool,
  addTool,
  init,
  store,
  type Types,
} from '@cornerstonejs/tools';
import { alongTheDrag, Ratchet } from './scroll';
import { ENGINE, VIEWPORT, ZOOM_LIMITS } from './view';

export interface ToolActions {
  scroll(frames: number): void;
  reset(): void;
}

export interface Tools {
  /** What one finger does; two always zoom and pan, three always window. */
  oneFinger(does: 'frames' | 'window'): void;
  detach(): void;
}

const GROUP = 'stack';
const { MouseBindings, KeyboardBindings } = Enums;
const ONE_FINGER = { numTouchPoints: 1 };

interface Scroll {
  scroll(frames: number): void;
  count: number;
}

class FrameScrollTool extends BaseTool {
  static override toolName = 'FrameScroll';
  private readonly wheel = new Ratchet();
  private readonly finger = new Ratchet();

  constructor(props: Types.PublicToolProps = {}) {
    super(props, { supportedInteractionTypes: ['Mouse', 'Touch'] });
  }

  mouseWheelCallback(event: Types.EventTypes.MouseWheelEventType): void {
    this.turn(this.wheel.notch(event.detail.wheel.pixelY));
  }

  preTouchStartCallback(): boolean {
    this.finger.rest();
    return false;
  }

  touchDragCallback(event: Types.EventTypes.TouchDragEventType): void {
    const { deltaPoints, element } = event.detail;
    const [dx, dy] = deltaPoints.canvas;
    const { along, perFrame } = alongTheDrag(dx, dy, element.clientWidth, element.clientHeight, this.asked.count);
    this.turn(this.finger.turn(along, perFrame));
  }

  private get asked(): Scroll {
    return this.configuration as Scroll;
  }

  private turn(frames: number): void {
    if (frames !== 0) this.asked.scroll(frames);
  }
}

let ready = false;

function startTools(): void {
  if (ready) return;
  ready = true;
  // The page has one cursor over the picture, whatever button may be pressed.
  Settings.getRuntimeSettings().set('useCursors', false);
  init();
  for (const tool of [FrameScrollTool, WindowLevelTool, ZoomTool, PanTool]) addTool(tool);
}

export function attachTools(element: HTMLDivElement, count: number, actions: ToolActions): Tools {
  startTools();
  // Tools look after elements enabled from now on; the first one was enabled before they were here.
  if (!store.state.enabledElements.includes(element)) {
    store.addEnabledElement({ detail: { element, viewportId: VIEWPORT, renderingEngineId: ENGINE } } as never);
  }
  ToolGroupManager.destroyToolGroup(GROUP);
  const group = ToolGroupManager.createToolGroup(GROUP);
  if (!group) throw new Error('cornerstone makes no tool group.');
  const { toolName: frames } = FrameScrollTool;
  group.addTool(frames, { scroll: actions.scroll, count } satisfies Scroll);
  group.addTool(WindowLevelTool.toolName);
  group.addTool(ZoomTool.toolName, { minZoomScale: ZOOM_LIMITS.least, maxZoomScale: ZOOM_LIMITS.most });
  group.addTool(PanTool.toolName);
  group.addViewport(VIEWPORT, ENGINE);
  // First come, first served: one finger counts as the primary button where nothing else claims it.
  group.setToolActive(frames, {
    bindings: [{ mouseButton: MouseBindings.Wheel }, ...(count > 1 ? [ONE_FINGER] : [])],
  });
  group.setToolActive(WindowLevelTool.toolName, {
    bindings: [{ mouseButton: MouseBindings.Primary }, { numTouchPoints: 3 }],
  });
  group.setToolActive(ZoomTool.toolName, {
    bindings: [
      { mouseButton: MouseBindings.Secondary },
      { mouseButton: MouseBindings.Wheel, modifierKey: KeyboardBindings.Ctrl },
      // With two fingers it pans as well.
      { numTouchPoints: 2 },
    ],
  });
  group.setToolActive(PanTool.toolName, {
    bindings: [
      { mouseButton: MouseBindings.Auxiliary },
      { mouseButton: MouseBindings.Primary, modifierKey: KeyboardBindings.Ctrl },
      { mouseButton: MouseBindings.Primary, modifierKey: KeyboardBindings.Meta },
    ],
  });
  const gone = browserAside(element, actions);
  return {
    oneFinger: (does) => {
      if (does === 'frames') group.setToolActive(frames, { bindings: [ONE_FINGER] });
      else group.setToolPassive(frames, { removeAllBindings: [ONE_FINGER] });
    },
    detach: () => {
      gone.abort();
      ToolGroupManager.destroyToolGroup(GROUP);
    },
  };
}

/** What the browser itself would do over a picture, and what cornerstone's listeners leave out. */
function browserAside(element: HTMLDivElement, actions: ToolActions): AbortController {
  const gone = new AbortController();
  const { signal } = gone;
  element.addEventListener('contextmenu', (event) => event.preventDefault(), { signal });
  element.addEventListener('wheel', (event) => event.preventDefault(), { signal, passive: false });
  element.addEventListener('dblclick', () => actions.reset(), { signal });
  element.addEventListener(
    Enums.Events.TOUCH_TAP,
    (event) => {
      if ((event as Types.EventTypes.TouchTapEventType).detail.taps === 2) actions.reset();
    },
    { signal },
  );
  // cornerstone does not hear of a touch that the system took away, and would wait for its end.
  element.addEventListener(
    'touchcancel',
    ({ touches, changedTouches }) =>
      document.dispatchEvent(
        new TouchEvent('touchend', { touches: [...touches], changedTouches: [...changedTouches] }),
      ),
    { signal },
  );
  return gone;
}
