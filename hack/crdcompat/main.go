// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command crdcompat says where the CRDs of config/ break what the last release's
// promised: objects that were stored, or manifests that were applied, must go on being
// valid and mean the same. `make verify` runs it.
//
//	crdcompat RELEASED PRESENT      two directories with CRDs in YAML
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crdcompat:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("say which directory holds the released CRDs, and which the present ones")
	}
	released, err := read(args[0])
	if err != nil {
		return err
	}
	present, err := read(args[1])
	if err != nil {
		return err
	}
	if len(released) == 0 {
		return fmt.Errorf("%s holds no CRD", args[0])
	}
	var breaks []string
	for name, before := range released {
		after, there := present[name]
		if !there {
			breaks = append(breaks, name+": the CRD is gone")
			continue
		}
		breaks = append(breaks, compare(before, after)...)
	}
	if len(breaks) > 0 {
		return fmt.Errorf("not compatible with the last release:\n  %s", strings.Join(breaks, "\n  "))
	}
	return nil
}

// read returns the CRDs of a directory by their names.
func read(dir string) (map[string]*apiextensionsv1.CustomResourceDefinition, error) {
	all := map[string]*apiextensionsv1.CustomResourceDefinition{}
	files, err := fs.Glob(os.DirFS(dir), "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(raw, crd); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		all[crd.Name] = crd
	}
	return all, nil
}
