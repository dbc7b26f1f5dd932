// What the editor takes from ComfyUI's page, for the type check: ComfyUI ships no types for it.

declare module "*/scripts/app.js" {
  export const app: any;
}

declare module "*/scripts/api.js" {
  export const api: any;
}
