// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// bomType is the media type of a CycloneDX list in JSON.
const bomType types.MediaType = "application/vnd.cyclonedx+json"

// materials lists of what a binary is made: its modules and Go itself, as the binary
// says. It has no time and no serial number, so that the same binary gives the same
// list.
func materials(binary, version string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("reading of what the manager is made: %w", err)
	}
	bom := cdx.NewBOM()
	main := component(info.Main.Path, version, "")
	main.Type = cdx.ComponentTypeApplication
	bom.Metadata = &cdx.Metadata{Component: &main}
	std := component("std", strings.TrimPrefix(info.GoVersion, "go"), "")
	components, needs := []cdx.Component{std}, []string{std.BOMRef}
	for _, dep := range info.Deps {
		sum := dep.Sum
		if dep.Replace != nil {
			dep, sum = dep.Replace, dep.Replace.Sum
		}
		c := component(dep.Path, dep.Version, sum)
		components, needs = append(components, c), append(needs, c.BOMRef)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	slices.Sort(needs)
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &needs}}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// component is a module. sum is that of go.sum.
func component(path, version, sum string) cdx.Component {
	purl := "pkg:golang/" + path + "@" + version
	c := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: purl}
	if sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go.sum", Value: sum}}
	}
	return c
}

// referrer makes of a list what a registry keeps beside the image, and refers to it.
func referrer(image v1.Image, list []byte) (v1.Image, error) {
	subject, err := descriptor(image)
	if err != nil {
		return nil, err
	}
	// What it is of, registries take from the type of its configuration.
	bom, err := mutate.AppendLayers(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), bomType),
		static.NewLayer(list, bomType),
	)
	if err != nil {
		return nil, err
	}
	referring, ok := mutate.Subject(bom, subject).(v1.Image)
	if !ok {
		return nil, fmt.Errorf("a subject gave %T", referring)
	}
	return referring, nil
}

// descriptor is how others refer to an image.
func descriptor(image v1.Image) (v1.Descriptor, error) {
	digest, err := image.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	size, err := image.Size()
	if err != nil {
		return v1.Descriptor{}, err
	}
	mediaType, err := image.MediaType()
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
}
