// Checks documents of kinds that Kubernetes itself does not have, against their projects' own definitions (as
// @kubernetes-models publishes them): values by the schemas, unknown and missing fields by the types.
//
//   node crds.mjs < documents.json     prints one line for each finding, then "checked N"

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import * as traefik from "@kubernetes-models/traefik/traefik.io/v1alpha1";
import ts from "typescript";

const groups = {
  "gateway.networking.k8s.io/v1": ["@kubernetes-models/gateway-api", gateway],
  "monitoring.coreos.com/v1": ["@kubernetes-models/prometheus-operator", monitoring],
  "traefik.io/v1alpha1": ["@kubernetes-models/traefik", traefik],
};

const documents = JSON.parse(readFileSync(0, "utf8"));
const findings = [...documents.flatMap(valuesOf), ...typesOf(documents)];
console.log([...findings, `checked ${documents.length}`].join("\n"));

function nameOf(document) {
  return `${document.kind} ${document.metadata?.name}`;
}

/** What the schema has against the values. It lets unknown fields pass, which the API server would drop in silence. */
function valuesOf(document) {
  const model = groups[document.apiVersion]?.[1][document.kind];
  if (!model) return [`${nameOf(document)}: no definition of this kind`];
  try {
    new model(document).validate();
    return [];
  } catch (error) {
    return [`${nameOf(document)}: ${error.message}`];
  }
}

/** What the compiler has against the documents as literals of their types: there, an unknown field is an error. */
function typesOf(documents) {
  const known = documents.filter((document) => groups[document.apiVersion]?.[1][document.kind]);
  const text = known.map((document, index) => {
    const from = `${groups[document.apiVersion][0]}/${document.apiVersion}`;
    return `export const document${index}: import("${from}").I${document.kind} = ${JSON.stringify(document)};`;
  });
  const path = join(dirname(fileURLToPath(import.meta.url)), "documents.mts");
  const options = {
    noEmit: true,
    strict: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  // The file is in memory only.
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  host.fileExists = (name) => name === path || fileExists(name);
  host.getSourceFile = (name, ...rest) =>
    name === path ? ts.createSourceFile(name, text.join("\n"), ts.ScriptTarget.ES2022) : getSourceFile(name, ...rest);
  const diagnostics = ts.getPreEmitDiagnostics(ts.createProgram([path], options, host));
  return diagnostics.map(({ file, start, messageText }) => {
    const at = file?.fileName === path ? nameOf(known[file.getLineAndCharacterOfPosition(start).line]) : file?.fileName;
    return `${at}: ${ts.flattenDiagnosticMessageText(messageText, " ").replaceAll("\n", " ")}`;
  });
}
