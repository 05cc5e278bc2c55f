// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// stages returns those of the Dockerfile: the one that builds, and the image.
func stages(t *testing.T) (build, final instructions.Stage) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	all, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d stages, %v", len(all), err)
	}
	return all[0], all[1]
}

// TestDockerfileMakesTheSame: by Docker or by `make image`, the image is run alike.
func TestDockerfileMakesTheSame(t *testing.T) {
	_, final := stages(t)
	if final.BaseName != "scratch" {
		t.Errorf("it is made from %s", final.BaseName)
	}
	byPlatform, _ := images(t)
	config, err := byPlatform["linux/amd64"].ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config
	got := v1.Config{Labels: map[string]string{}, ExposedPorts: map[string]struct{}{}}
	var copied []string
	for _, command := range final.Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			got.User = c.User
		case *instructions.EntrypointCommand:
			got.Entrypoint = c.CmdLine
		case *instructions.WorkdirCommand:
			got.WorkingDir = c.Path
		case *instructions.ExposeCommand:
			for _, port := range c.Ports {
				got.ExposedPorts[port] = struct{}{}
			}
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				got.Labels[strings.Trim(l.Key, `"`)] = strings.Trim(l.Value, `"`)
			}
		case *instructions.CopyCommand:
			copied = append(copied, c.From+":"+strings.Join(c.SourcePaths, ",")+" to "+c.DestPath+" "+c.Chmod)
		default:
			t.Errorf("unknown to this test: %s", command.Name())
		}
	}
	// Who builds gives the version and the revision to Docker.
	maps.DeleteFunc(want.Labels, func(key, _ string) bool {
		return strings.HasSuffix(key, "version") || strings.HasSuffix(key, "revision")
	})
	if got.User != want.User || !slices.Equal(got.Entrypoint, want.Entrypoint) || got.WorkingDir != want.WorkingDir ||
		!maps.Equal(got.Labels, want.Labels) || !maps.Equal(got.ExposedPorts, want.ExposedPorts) {
		t.Errorf("by Docker %+v\nby make image %+v", got, want)
	}
	if want := []string{":hack/image/rootfs/ to / ", "build:/out/manager to /manager 0555"}; !slices.Equal(copied, want) {
		t.Errorf("it copies %q, want %q", copied, want)
	}
}

// TestDockerfileBuildsTheSame: what its first stage runs, with what it copies and what
// .dockerignore lets through, gives the binary of `make image`.
func TestDockerfileBuildsTheSame(t *testing.T) {
	build, _ := stages(t)
	ignored, err := os.ReadFile(filepath.Join(repository, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	src, out := filepath.Join(t.TempDir(), "src"), t.TempDir()
	ran := 0
	for _, command := range build.Commands {
		switch c := command.(type) {
		case *instructions.CopyCommand:
			for _, source := range c.SourcePaths {
				if !strings.Contains(string(ignored), "\n!"+source+"\n") {
					t.Errorf(".dockerignore keeps %s from Docker", source)
				}
				to := filepath.Join(src, filepath.FromSlash(c.DestPath))
				if strings.HasSuffix(c.DestPath, "/") {
					to = filepath.Join(to, filepath.Base(source))
				}
				if err := copyOf(filepath.Join(repository, source), to); err != nil {
					t.Fatal(err)
				}
			}
		case *instructions.RunCommand:
			ran++
			line := strings.ReplaceAll(strings.Join(c.CmdLine, " "), "/out/", out+"/")
			run := exec.CommandContext(t.Context(), "sh", "-c", line)
			run.Dir, run.Env = src, append(os.Environ(), "TARGETOS=linux", "TARGETARCH=arm64")
			if said, err := run.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, said)
			}
		}
	}
	byPlatform, _ := images(t)
	content, _ := filesOf(t, byPlatform["linux/arm64"])
	if program, err := os.ReadFile(filepath.Join(out, "manager")); err != nil || !bytes.Equal(program, content["manager"]) {
		t.Errorf("after %d commands: another binary, of %d bytes, %v", ran, len(program), err)
	}
}
