// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// rootfsFiles is what the image holds beside the manager. The Dockerfile copies the
// same.
//
//go:embed rootfs
var rootfsFiles embed.FS

// file is one of an image.
type file struct {
	// name is its path, without a slash before it.
	name string
	mode int64
	data []byte
}

// rootfs returns the files of rootfs/.
func rootfs() ([]file, error) {
	var files []file
	err := fs.WalkDir(rootfsFiles, "rootfs", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := rootfsFiles.ReadFile(name)
		files = append(files, file{name: strings.TrimPrefix(name, "rootfs/"), mode: 0o444, data: data})
		return err
	})
	return files, err
}

// layersOf makes a layer of each list of files.
func layersOf(lists ...[]file) ([]v1.Layer, error) {
	layers := make([]v1.Layer, 0, len(lists))
	for _, files := range lists {
		packed, err := pack(files)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(packed)), nil
		}, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

// pack makes a tar file, the same one of the same files: in order, of no time, and of
// root, so that nobody in the container may change them.
func pack(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	made := map[string]bool{".": true}
	files = slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.name, b.name) })
	for _, f := range files {
		if err := packDirs(w, made, path.Dir(f.name)); err != nil {
			return nil, err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
	}
	return out.Bytes(), w.Close()
}

// packDirs packs a directory after those that it is in.
func packDirs(w *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := packDirs(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}
