// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"sigs.k8s.io/yaml"
)

// What stands in krew's manifest; the words are krew's.
type manifest struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   map[string]string `json:"metadata"`
	Spec       manifestSpec      `json:"spec"`
}

type manifestSpec struct {
	Version          string             `json:"version"`
	Homepage         string             `json:"homepage"`
	ShortDescription string             `json:"shortDescription"`
	Description      string             `json:"description"`
	Caveats          string             `json:"caveats"`
	Platforms        []manifestPlatform `json:"platforms"`
}

type manifestPlatform struct {
	Selector map[string]map[string]string `json:"selector"`
	URI      string                       `json:"uri"`
	SHA256   string                       `json:"sha256"`
	Bin      string                       `json:"bin"`
	Files    []map[string]string          `json:"files"`
}

func (r release) manifest(archives []archive) ([]byte, error) {
	m := manifest{
		APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin", Metadata: map[string]string{"name": "chatrun"},
		Spec: manifestSpec{
			Version: r.version, Homepage: "https://chatrun.dev",
			ShortDescription: "Ask a model in the cluster, and follow the answer",
			Description: "Create ChatRuns, and follow them: every token, and every retry with the time until\n" +
				"the next attempt. Runs go on without whoever started them.\n",
			Caveats: "It needs the ChatRun operator in the cluster.\n",
		},
	}
	for _, a := range archives {
		m.Spec.Platforms = append(m.Spec.Platforms, manifestPlatform{
			Selector: map[string]map[string]string{"matchLabels": {"os": a.system, "arch": a.arch}},
			URI:      strings.TrimSuffix(r.url, "/") + "/" + a.name, SHA256: a.sha256, Bin: a.program,
			Files: []map[string]string{{"from": a.program, "to": "."}, {"from": "LICENSE", "to": "."}},
		})
	}
	return yaml.Marshal(m)
}
