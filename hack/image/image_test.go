// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// repository is the root of the product's module.
var repository = filepath.Join("..", "..")

// built is the image of this repository, which is built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chatrun-image-test-")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "image.tar")
	r := recipe{Root: repository, Platforms: []string{"linux/amd64", "linux/arm64"}, Version: "v0.0.1", Revision: "0123abc"}
	_, err = r.build(context.Background(), out)
	return out, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if out, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(out))
	}
	os.Exit(code)
}

// images returns those of the image, by platform, and what refers to them.
func images(t *testing.T) (byPlatform map[string]v1.Image, artifacts []v1.Image) {
	t.Helper()
	out, err := built()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unpackDir(out, dir); err != nil {
		t.Fatal(err)
	}
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	byPlatform = map[string]v1.Image{}
	for _, m := range manifests.Manifests {
		if !m.MediaType.IsIndex() {
			artifact, err := all.Image(m.Digest)
			if err != nil {
				t.Fatal(err)
			}
			artifacts = append(artifacts, artifact)
			continue
		}
		index, err := all.ImageIndex(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		inner, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range inner.Manifests {
			if byPlatform[i.Platform.String()], err = index.Image(i.Digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	return byPlatform, artifacts
}

// filesOf returns the files of an image, and their modes and owners in words.
func filesOf(t *testing.T, image v1.Image) (content map[string][]byte, modes []string) {
	t.Helper()
	content = map[string][]byte{}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		r, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for packed := tar.NewReader(r); ; {
			h, err := packed.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(packed)
			if err != nil {
				t.Fatal(err)
			}
			content[h.Name] = data
			modes = append(modes, fmt.Sprintf("%s %o %d:%d", h.Name, h.Mode, h.Uid, h.Gid))
		}
		_ = r.Close()
	}
	return content, modes
}

// TestWhatIsInIt: the manager, two lists of users, and of what it is made: no shell,
// nothing that can be written, and nobody's rights but those of a user without a name.
func TestWhatIsInIt(t *testing.T) {
	byPlatform, _ := images(t)
	machines := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
	if len(byPlatform) != len(machines) {
		t.Fatalf("platforms %v", byPlatform)
	}
	for platform, machine := range machines {
		content, modes := filesOf(t, byPlatform[platform])
		want := []string{"etc/ 755 0:0", "etc/group 444 0:0", "etc/passwd 444 0:0", "manager 555 0:0", "sbom/ 755 0:0", "sbom/manager.cdx.json 444 0:0"}
		if slices.Sort(modes); !slices.Equal(modes, want) {
			t.Errorf("%s holds %q, want %q", platform, modes, want)
		}
		program, err := elf.NewFile(bytes.NewReader(content["manager"]))
		if err != nil {
			t.Fatalf("%s: %v", platform, err)
		}
		if program.Machine != machine || slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
			t.Errorf("%s: a binary for %s, or one that is not static", platform, program.Machine)
		}
		config, err := byPlatform[platform].ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/manager"}) || len(config.Config.Env) != 0 ||
			config.Config.Labels["org.opencontainers.image.revision"] != "0123abc" || config.OS+"/"+config.Architecture != platform || config.Created.Unix() != 0 {
			t.Errorf("%s: config %+v", platform, config)
		}
		manifest, err := byPlatform[platform].Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if manifest.Annotations["org.opencontainers.image.version"] != "v0.0.1" {
			t.Errorf("%s: annotations %v", platform, manifest.Annotations)
		}
	}
}

// TestOfWhatItIsMade: the list in the image, and the one that refers to it, name what
// Go says is in the binary, and no more.
func TestOfWhatItIsMade(t *testing.T) {
	byPlatform, artifacts := images(t)
	subjects := map[v1.Hash][]byte{}
	for _, a := range artifacts {
		manifest, err := a.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := a.Layers()
		if err != nil || len(layers) != 1 || manifest.Config.MediaType != bomType {
			t.Fatalf("an artifact of %d layers, %s, %v", len(layers), manifest.Config.MediaType, err)
		}
		r, err := layers[0].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if subjects[manifest.Subject.Digest], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	for platform, image := range byPlatform {
		content, _ := filesOf(t, image)
		list := content["sbom/manager.cdx.json"]
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(subjects[digest], list) {
			t.Errorf("%s: what refers to the image is another list than the one in it", platform)
		}
		bom := cdx.NewBOM()
		if err := cdx.NewBOMDecoder(bytes.NewReader(list), cdx.BOMFileFormatJSON).Decode(bom); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range *bom.Components {
			if c.Name != "std" {
				got = append(got, c.Name+" "+c.Version)
			}
		}
		slices.Sort(got)
		if want := modulesOf(t, content["manager"]); !slices.Equal(got, want) {
			t.Errorf("%s: lists %q, want %q", platform, got, want)
		}
	}
}

// modulesOf asks Go of what a binary is made.
func modulesOf(t *testing.T, program []byte) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manager")
	if err := os.WriteFile(path, program, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := exec.CommandContext(t.Context(), "go", "version", "-m", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for line := range strings.Lines(string(said)) {
		if fields := strings.Fields(line); len(fields) >= 3 && fields[0] == "dep" {
			modules = append(modules, fields[1]+" "+fields[2])
		}
	}
	if slices.Sort(modules); len(modules) < 10 {
		t.Fatalf("Go says %s", said)
	}
	return modules
}

// TestSameBytes: whoever builds the same commit, wherever it lies, gets the same file.
func TestSameBytes(t *testing.T) {
	first, err := built()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "another", "place")
	for _, part := range []string{"go.mod", "go.sum", "api", "cmd", "internal"} {
		if err := copyOf(filepath.Join(repository, part), filepath.Join(elsewhere, part)); err != nil {
			t.Fatal(err)
		}
	}
	// What whoever builds has set for programs of their own.
	for name, value := range map[string]string{"GOFLAGS": "-ldflags=-X=main.who=me", "GOAMD64": "v3", "GOARM64": "v8.1", "GOFIPS140": "latest"} {
		t.Setenv(name, value)
	}
	second := filepath.Join(t.TempDir(), "image.tar")
	r := recipe{Root: elsewhere, Platforms: []string{"linux/amd64", "linux/arm64"}, Version: "v0.0.1", Revision: "0123abc"}
	if _, err := r.build(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(first)
	b, errB := os.ReadFile(second)
	if err := errors.Join(errA, errB); err != nil || !bytes.Equal(a, b) {
		t.Errorf("%d and %d bytes, which differ: %v", len(a), len(b), err)
	}
}

func copyOf(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, data, 0o600))
}

// TestPush: a registry has the image for each platform by its tag, and by its digest
// what it is made of.
func TestPush(t *testing.T) {
	out, err := built()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	reference := strings.TrimPrefix(server.URL, "http://") + "/team/chatrun-operator:v1"
	pushed, err := push(t.Context(), out, reference)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	for platform := range map[string]bool{"linux/amd64": true, "linux/arm64": true} {
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(tag, remote.WithPlatform(*p), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		referrers, err := remote.Referrers(tag.Context().Digest(digest.String()), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		list, err := referrers.IndexManifest()
		if err != nil || len(list.Manifests) != 1 || list.Manifests[0].ArtifactType != string(bomType) {
			t.Errorf("%s: %+v refer to it, %v", platform, list, err)
		}
	}
	index, err := remote.Index(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := index.Digest(); err != nil || !strings.HasSuffix(pushed, "@"+digest.String()) {
		t.Errorf("pushed as %s, and found as %s, %v", pushed, digest, err)
	}
	if _, err := push(t.Context(), filepath.Join(t.TempDir(), "none.tar"), reference); err == nil {
		t.Error("nothing was pushed, and all was well")
	}
}
