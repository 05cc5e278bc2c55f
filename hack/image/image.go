// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	// user is who the manager runs as: nobody's number, of no user that a node has.
	user = "65532:65532"
	// entrypoint is the manager's binary in the image.
	entrypoint = "/manager"
	// description is what the image says of itself.
	description = "Runs LLM chats as custom resources"
)

// ports are those of the manager's endpoints, as config/manager sets them.
var ports = []string{"8081/tcp", "8090/tcp", "8091/tcp", "8443/tcp"}

// recipe says what to build.
type recipe struct {
	// Root is the repository.
	Root string
	// Platforms are such as linux/amd64.
	Platforms []string
	// Version and Revision are what the image says that it is.
	Version, Revision string
}

// build writes the image into a tar file, and returns the digest of its index.
func (r recipe) build(ctx context.Context, out string) (v1.Hash, error) {
	scratch, err := os.MkdirTemp("", "chatrun-image-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	index := v1.ImageIndex(empty.Index)
	index = mutate.IndexMediaType(index, types.OCIImageIndex)
	var boms []v1.Image
	for _, platform := range r.Platforms {
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			return v1.Hash{}, err
		}
		binary := filepath.Join(scratch, strings.ReplaceAll(platform, "/", "-"))
		if err := r.compile(ctx, *p, binary); err != nil {
			return v1.Hash{}, err
		}
		image, bom, err := r.image(*p, binary)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("making the image of %s: %w", platform, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: p}})
		boms = append(boms, bom)
	}
	if annotated, ok := mutate.Annotations(index, r.labels()).(v1.ImageIndex); ok {
		index = annotated
	}
	return writeLayout(out, index, boms)
}

// compile builds the manager for a platform. Nothing of the machine goes into it.
func (r recipe) compile(ctx context.Context, p v1.Platform, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./cmd/manager")
	cmd.Dir = r.Root
	// What whoever builds has set for programs of their own must not change what comes
	// out. These are Go's defaults.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off",
		"GOOS="+p.OS, "GOARCH="+p.Architecture)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the manager for %s: %w\n%s", p, err, bytes.TrimSpace(said))
	}
	return nil
}

// image puts the root file system and a binary together, and what says of what the
// binary is made, which refers to the image.
func (r recipe) image(p v1.Platform, binary string) (image, bom v1.Image, err error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, nil, err
	}
	list, err := materials(binary, r.Version)
	if err != nil {
		return nil, nil, err
	}
	base, err := rootfs()
	if err != nil {
		return nil, nil, err
	}
	layers, err := layersOf(base, []file{
		{name: "manager", mode: 0o555, data: program},
		{name: "sbom/manager.cdx.json", mode: 0o444, data: list},
	})
	if err != nil {
		return nil, nil, err
	}
	image, err = mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layers...)
	if err != nil {
		return nil, nil, err
	}
	image, err = mutate.ConfigFile(image, r.config(p, image))
	if err != nil {
		return nil, nil, err
	}
	annotated, ok := mutate.Annotations(image, r.labels()).(v1.Image)
	if !ok {
		return nil, nil, fmt.Errorf("annotating gave %T", annotated)
	}
	bom, err = referrer(annotated, list)
	return annotated, bom, err
}

// config is how the image is run.
func (r recipe) config(p v1.Platform, image v1.Image) *v1.ConfigFile {
	c, err := image.ConfigFile()
	if err != nil {
		c = &v1.ConfigFile{}
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Variant = p.OS, p.Architecture, p.Variant
	c.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	exposed := map[string]struct{}{}
	for _, port := range ports {
		exposed[port] = struct{}{}
	}
	c.Config = v1.Config{
		User: user, Entrypoint: []string{entrypoint}, WorkingDir: "/", ExposedPorts: exposed, Labels: r.labels(),
	}
	for i := range c.History {
		c.History[i] = v1.History{Created: c.Created, CreatedBy: "hack/image"}
	}
	return c
}

// labels are what the image says of itself, by the names that OCI gives.
func (r recipe) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "chatrun-operator",
		"org.opencontainers.image.description": description,
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     r.Version,
	}
	if r.Revision != "" {
		labels["org.opencontainers.image.revision"] = r.Revision
	}
	return labels
}
