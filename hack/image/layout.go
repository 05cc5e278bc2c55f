// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// maxFile bounds a file of a layout that is read: a binary has some 60 MB.
const maxFile = 1 << 30

// writeLayout writes an index, and what refers to its images, as an OCI
// layout in a tar file. It returns the digest of the index.
func writeLayout(out string, index v1.ImageIndex, referring []v1.Image) (digest v1.Hash, err error) {
	dir, err := os.MkdirTemp("", "chatrun-layout-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return v1.Hash{}, err
	}
	errs := []error{l.AppendIndex(index)}
	for _, a := range referring {
		errs = append(errs, l.AppendImage(a))
	}
	if err := errors.Join(errs...); err != nil {
		return v1.Hash{}, fmt.Errorf("writing the layout: %w", err)
	}
	if digest, err = index.Digest(); err != nil {
		return v1.Hash{}, err
	}
	return digest, packDir(dir, out)
}

// packDir puts a directory into a tar file, which stands whole or not at all.
func packDir(dir, out string) error {
	var files []file
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		files = append(files, file{name: filepath.ToSlash(name), mode: 0o644, data: data})
		return err
	})
	if err != nil {
		return err
	}
	packed, err := pack(files)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(out+".new", packed, 0o644); err != nil {
		return err
	}
	return os.Rename(out+".new", out)
}

// unpackDir takes the regular files of a tar file out into a directory.
func unpackDir(from, dir string) error {
	packed, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = packed.Close() }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for r := tar.NewReader(packed); ; {
		header, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading %s: %w", from, err)
		case header.Typeflag != tar.TypeReg:
			continue
		case header.Size > maxFile:
			return fmt.Errorf("%s: %s is too large", from, header.Name)
		}
		if err := root.MkdirAll(filepath.Dir(header.Name), 0o755); err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(r, header.Size))
		if err != nil {
			return err
		}
		if err := root.WriteFile(header.Name, data, 0o644); err != nil {
			return err
		}
	}
}

// push sends the image of a layout to a registry, by Docker's credentials, and what
// refers to it. It returns the image's name with its digest.
func push(ctx context.Context, from, reference string, more ...remote.Option) (string, error) {
	tag, err := name.ParseReference(reference)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "chatrun-push-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := unpackDir(from, dir); err != nil {
		return "", err
	}
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return "", fmt.Errorf("reading the layout: %w", err)
	}
	manifests, err := all.IndexManifest()
	if err != nil {
		return "", err
	}
	options := append([]remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}, more...)
	pushed := ""
	for _, m := range manifests.Manifests {
		at := tag.Context().Digest(m.Digest.String())
		if !m.MediaType.IsIndex() {
			list, err := all.Image(m.Digest)
			if err != nil {
				return "", err
			}
			if err := remote.Write(at, list, options...); err != nil {
				return "", fmt.Errorf("pushing of what the image is made: %w", err)
			}
			continue
		}
		index, err := all.ImageIndex(m.Digest)
		if err != nil {
			return "", err
		}
		if err := remote.WriteIndex(tag, index, options...); err != nil {
			return "", fmt.Errorf("pushing the image: %w", err)
		}
		pushed = at.Name()
	}
	if pushed == "" {
		return "", fmt.Errorf("%s holds no image", from)
	}
	return pushed, nil
}
