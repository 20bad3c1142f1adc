/** PNG and JPEG files as bytes of red, green and blue, by the package sharp, which is loaded when the first one comes. */
import { BinadeError } from "../errors.ts";

/** One decoded picture: (height, width, channels), row-major; 1 channel for grey, 3 for colour. */
export interface DecodedPicture {
  readonly height: number;
  readonly width: number;
  readonly channels: number;
  readonly values: Uint8Array;
}

/** Decodes files. */
export interface PictureDecoder {
  /**
   * @param path names the file in errors. @param size extent to scale and cut the middle to; null keeps the size.
   * @throws BinadeError `data.corrupt`.
   */
  decode(path: string, bytes: Uint8Array, size: number | null): Promise<DecodedPicture>;
}

/** What is used of sharp; its own types would make it a dependency of everybody who reads ours. */
interface SharpPipeline {
  metadata(): Promise<{ readonly format?: string; readonly space?: string }>;
  autoOrient(): SharpPipeline;
  flatten(options: { readonly background: string }): SharpPipeline;
  resize(width: number, height: number, options: { readonly fit: "cover" }): SharpPipeline;
  toColourspace(space: string): SharpPipeline;
  raw(): SharpPipeline;
  toBuffer(options: { readonly resolveWithObject: true }): Promise<{
    readonly data: Uint8Array;
    readonly info: { readonly width: number; readonly height: number; readonly channels: number };
  }>;
}
type Sharp = (input: Uint8Array, options: { readonly failOn: "error" }) => SharpPipeline;

/**
 * Loads the decoder.
 *
 * @param specifier the package; a variable, so that no bundler and no compiler asks for a package that need not be there.
 * @throws BinadeError `package.missing` where the package is not installed, or not for this platform.
 */
export async function loadDecoder(specifier = "sharp"): Promise<PictureDecoder> {
  const { default: sharp } = await import(specifier).then(
    (module: { readonly default: Sharp }) => module,
    (cause: unknown) => {
      const message = `PNG and JPEG files need the package ${specifier}, which could not be loaded; run npm install ${specifier}`;
      throw new BinadeError("package.missing", message, { cause });
    },
  );
  return { decode: (path, bytes, size) => decode(sharp, path, bytes, size) };
}

const FORMATS: ReadonlySet<string | undefined> = new Set(["png", "jpeg"]);
const GREY: ReadonlySet<string | undefined> = new Set(["b-w", "grey16"]);

async function decode(sharp: Sharp, path: string, bytes: Uint8Array, size: number | null): Promise<DecodedPicture> {
  try {
    const picture = sharp(bytes, { failOn: "error" });
    const { format, space } = await picture.metadata();
    if (!FORMATS.has(format)) throw new Error(`it is ${format ?? "of unknown format"}`);
    // Transparent places become black; 16 bits become 8; the camera's rotation is applied.
    const plain = picture.autoOrient().flatten({ background: "black" });
    const sized = size === null ? plain : plain.resize(size, size, { fit: "cover" });
    const colored = sized.toColourspace(GREY.has(space) ? "b-w" : "srgb").raw();
    const { data, info } = await colored.toBuffer({ resolveWithObject: true });
    return { height: info.height, width: info.width, channels: info.channels, values: data };
  } catch (cause) {
    const [reason = ""] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
    const message = `${path}: expected a PNG or JPEG picture, could not decode it: ${reason.trim()}; replace or remove the file`;
    throw new BinadeError("data.corrupt", message, { cause });
  }
}
