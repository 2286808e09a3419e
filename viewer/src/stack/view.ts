/**
 * Knows cornerstone's rendering: one engine, one StackViewport. Tells which frame is PAINTED (not
 * which was asked for), and how it is shown.
 *
 * It is only given frames that are decoded and in cornerstone's cache, so showing one is a matter
 * of one animation frame and never of the network.
 */

import {
  Enums,
  RenderingEngine,
  getRenderingCapabilities,
  imageLoader,
  init as initCore,
  setUseCPURendering,
  utilities,
  type Types,
} from '@cornerstonejs/core';
import dicomImageLoader from '@cornerstonejs/dicom-image-loader';
import type { DicomJson } from '../dicom/json';

export const ENGINE = 'multiframe';
export const VIEWPORT = 'stack';
/** Shares of the fitted size between which the zoom stays. */
export const ZOOM_LIMITS = { least: 0.2, most: 40 };

export type Renderer = 'auto' | 'cpu' | 'gpu';
export interface Window {
  width: number;
  centre: number;
}

let usesCpu: boolean | undefined;

/**
 * Starts cornerstone once. A WebGL that is only emulated in software draws a cine at 10 frames a
 * second where cornerstone's CPU renderer reaches 25, so it counts as none.
 */
function startCornerstone(renderer: Renderer): boolean {
  if (usesCpu !== undefined) return usesCpu;
  initCore();
  const { webgl, softwareRasterizer } = getRenderingCapabilities();
  usesCpu = renderer === 'auto' ? !webgl || !!softwareRasterizer : renderer === 'cpu';
  setUseCPURendering(usesCpu);
  dicomImageLoader.init({ maxWebWorkers: Math.max(1, Math.min(4, (navigator.hardwareConcurrency || 2) - 1)) });
  return usesCpu;
}

export class StackView {
  readonly usesCpu: boolean;
  onPainted: (frame: number) => void = () => undefined;
  onChanged: () => void = () => undefined;

  private readonly engine: RenderingEngine;
  private readonly resizing: ResizeObserver;
  private viewport: Types.IStackViewport;
  private imageIds: string[] = [];
  private readonly frameOf = new Map<string, number>();
  private window_: Window | undefined;
  private inverted = false;
  private opening: Promise<void> | undefined;
  private wanted = 0;
  private closed = false;
  /** cornerstone's zoom when the whole picture fits; 0 before there is one. */
  private fitted = 0;

  constructor(
    private readonly element: HTMLDivElement,
    renderer: Renderer,
  ) {
    this.usesCpu = startCornerstone(renderer);
    this.engine = new RenderingEngine(ENGINE);
    this.engine.enableElement({
      viewportId: VIEWPORT,
      element,
      type: Enums.ViewportType.STACK,
      defaultOptions: { background: [0, 0, 0] },
    });
    // With the focus on it, cornerstone's tools would swallow every key.
    element.removeAttribute('tabindex');
    this.viewport = this.engine.getViewport(VIEWPORT) as Types.IStackViewport;
    this.viewport.getCanvas().dataset['testid'] = 'viewport';
    if (this.usesCpu) correctCpuScale(this.viewport);
    element.addEventListener(Enums.Events.IMAGE_RENDERED, () => this.painted());
    element.addEventListener(Enums.Events.CAMERA_MODIFIED, () => this.onChanged());
    this.resizing = new ResizeObserver(() => this.resized());
    this.resizing.observe(element);
  }

  /** Puts the metadata where image loader and renderer look for it: before anything is decoded. */
  describe(metadata: DicomJson, imageIds: string[]): void {
    this.imageIds = imageIds;
    imageIds.forEach((imageId, index) => this.frameOf.set(imageId, index + 1));
    // Of a multi-frame instance only frame 1 is entered: the loader derives the others from it.
    dicomImageLoader.wadors.metaDataManager.add(imageIds[0] ?? '', metadata as never);
    imageLoader.registerImageLoader('wadors', (imageId: string) => ({
      promise: Promise.reject(new Error(`${imageId} was to be shown before it was ready.`)),
    }));
  }

  /** The frame must be decoded. `onPainted` tells when it is on the screen. The first one opens the stack. */
  async show(frame: number): Promise<void> {
    this.wanted = frame;
    if (!this.opening) {
      this.opening = this.open(frame);
      await this.opening;
      return;
    }
    await this.opening;
    // While the stack was opening the wish may have changed, and the frame may be gone again.
    if (this.wanted !== frame || this.closed) return;
    await this.viewport.setImageIdIndex(frame - 1);
    if (this.closed) return;
    // cornerstone's CPU renderer goes on drawing the chosen window but says it is the file's own,
    // and the next drag would start from there.
    if (this.usesCpu && this.window_) this.viewport.setProperties({ voiRange: rangeOf(this.window_) }, true);
    this.viewport.render();
  }

  private async open(first: number): Promise<void> {
    await this.viewport.setStack(this.imageIds, first - 1);
    if (this.closed) return;
    this.element.addEventListener(Enums.Events.VOI_MODIFIED, (event) => this.windowed(event as CustomEvent));
    this.resized();
  }

  get window(): Window | undefined {
    return this.window_ ?? this.ownWindow();
  }

  get isInverted(): boolean {
    return this.inverted;
  }

  /** CSS pixels an image pixel takes. */
  get zoom(): number {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    if (!image) return 1;
    const from = this.viewport.canvasToWorld([0, 0]);
    const to = this.viewport.canvasToWorld([0, 100]);
    const pixels = Math.hypot(to[0] - from[0], to[1] - from[1], to[2] - from[2]) / (image.rowPixelSpacing || 1);
    return pixels > 0 ? 100 / pixels : 1;
  }

  /** About the middle of what is seen. */
  zoomBy(factor: number): void {
    if (!this.viewport.getCornerstoneImage()) return;
    const now = this.viewport.getZoom() / this.fitted;
    const next = Math.min(ZOOM_LIMITS.most, Math.max(ZOOM_LIMITS.least, now * factor));
    const { parallelScale = 1 } = this.viewport.getCamera();
    this.viewport.setCamera({ parallelScale: (parallelScale * now) / next });
    this.redraw();
  }

  invert(): void {
    if (!this.viewport.getCornerstoneImage()) return;
    this.inverted = !this.inverted;
    this.viewport.setProperties({ invert: this.inverted });
    this.redraw();
  }

  reset(): void {
    if (!this.viewport.getCornerstoneImage()) return;
    this.inverted = false;
    const own = this.ownWindow();
    this.viewport.setProperties({ invert: false });
    if (own) this.viewport.setProperties({ voiRange: rangeOf(own) });
    this.window_ = undefined;
    this.fit();
    this.redraw();
  }

  close(): void {
    this.closed = true;
    this.resizing.disconnect();
    this.onPainted = () => undefined;
    this.onChanged = () => undefined;
    this.engine.destroy();
    const [first] = this.imageIds;
    if (first) for (const imageId of this.imageIds) dicomImageLoader.wadors.metaDataManager.remove(imageId);
  }

  private windowed(event: CustomEvent<{ range: Types.VOIRange }>): void {
    const { lower, upper } = event.detail.range;
    const { windowWidth, windowCenter } = utilities.windowLevel.toWindowLevel(lower, upper);
    this.window_ = { width: windowWidth, centre: windowCenter };
    this.onChanged();
  }

  private ownWindow(): Window | undefined {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    if (!image) return undefined;
    const width = Array.isArray(image.windowWidth) ? image.windowWidth[0] : image.windowWidth;
    const centre = Array.isArray(image.windowCenter) ? image.windowCenter[0] : image.windowCenter;
    return width === undefined || centre === undefined ? undefined : { width, centre };
  }

  private redraw(): void {
    this.viewport.render();
    this.onChanged();
  }

  private fit(): void {
    this.viewport.resetCamera();
    this.fitted = this.viewport.getZoom();
  }

  /** The picture is fitted anew, but a zoom that was chosen stays. */
  private resized(): void {
    if (this.element.clientWidth === 0 || !this.viewport.getCornerstoneImage()) return;
    const chosen = this.fitted > 0 ? this.viewport.getZoom() / this.fitted : 1;
    if (this.usesCpu) this.resizeCpuCanvas();
    else this.engine.resize(true, false);
    this.fit();
    if (Math.abs(chosen - 1) > 0.01) this.zoomBy(chosen);
    this.redraw();
  }

  /** cornerstone's own CPU resize makes the canvas one device pixel for each CSS pixel: blurred. */
  private resizeCpuCanvas(): void {
    const canvas = this.viewport.getCanvas();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.element.clientWidth * ratio);
    const height = Math.round(this.element.clientHeight * ratio);
    if (canvas.width === width && canvas.height === height) return;
    canvas.width = width;
    canvas.height = height;
    canvas.style.aspectRatio = 'auto';
  }

  /** Asks the renderer for the image it has drawn: the index may already be one further. */
  private painted(): void {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    const frame = image && this.frameOf.get(image.imageId);
    if (frame) this.onPainted(frame);
  }
}

function rangeOf({ width, centre }: Window): Types.VOIRange {
  return utilities.windowLevel.toLowHighRange(width, centre);
}

/**
 * cornerstone 5.14's CPU renderer tells its scale in CSS pixels but takes it for device pixels: on a
 * screen with two device pixels to one of CSS, every step of a zoom would halve the picture.
 */
function correctCpuScale(viewport: Types.IStackViewport): void {
  const setCamera = viewport.setCamera.bind(viewport);
  viewport.setCamera = (camera, ...rest) => {
    const ratio = window.devicePixelRatio || 1;
    const { parallelScale } = camera;
    setCamera(parallelScale ? { ...camera, parallelScale: parallelScale / ratio } : camera, ...rest);
  };
}
