// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package page serves the web page on which people watch the runs of a namespace.
// It is for anybody, as there is nothing in it: what it shows it reads with the
// token that its user pastes. Its source is in web/page.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// assets are written by `make generate`.
//
//go:embed assets
var assets embed.FS

const (
	index = "index.html"
	// below is where the page is, and all that it loads.
	below = "/ui/"
	// asks and open are how the page is told whether to ask for a token.
	asks, open = `data-sign-in="token"`, `data-sign-in="none"`
)

// policy lets the page load what is served here, and connect to nowhere else. No
// text can become markup or code: the page makes its elements one by one.
var policy = strings.Join([]string{
	"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
	"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	"require-trusted-types-for 'script'", "trusted-types 'none'",
}, "; ")

// file is one that is served.
type file struct {
	contentType, etag string
	body              []byte
}

// Beside serves the page below /ui/, leads there from /, and leaves all else to
// next. anybody says that next asks nobody who they are.
func Beside(next http.Handler, anybody bool) (http.Handler, error) {
	files, err := load(anybody)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ours := files[r.URL.Path]
		switch {
		case r.URL.Path == "/" || r.URL.Path == strings.TrimSuffix(below, "/"):
			protect(w.Header())
			// It holds also behind a proxy that serves this below a path of its own.
			w.Header().Set("Location", "."+below)
			w.WriteHeader(http.StatusFound)
		case !ours:
			next.ServeHTTP(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			f.serve(w, r)
		}
	}), nil
}

// load reads what is embedded.
func load(anybody bool) (map[string]*file, error) {
	files := map[string]*file{}
	err := fs.WalkDir(assets, "assets", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := assets.ReadFile(name)
		if err != nil {
			return err
		}
		place := below + path.Base(name)
		if path.Base(name) == index {
			place = below
			if !bytes.Contains(body, []byte(asks)) {
				return fmt.Errorf("the page cannot be told whether to ask for a token: %s is not in it", asks)
			}
			if anybody {
				body = bytes.Replace(body, []byte(asks), []byte(open), 1)
			}
		}
		sum := sha256.Sum256(body)
		files[place] = &file{contentType: typeOf(name), etag: `"` + hex.EncodeToString(sum[:16]) + `"`, body: body}
		return nil
	})
	return files, err
}

// typeOf does not ask the machine, whose answer may be another one.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return mime.TypeByExtension(path.Ext(name))
}

// protect sets what holds for all that is served here.
func protect(header http.Header) {
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	// It is asked for again each time, and not sent again unless it changed: while
	// replicas are being replaced, no page is put together from two of them for long.
	header.Set("Cache-Control", "no-cache")
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	protect(header)
	header.Set("Content-Type", f.contentType)
	header.Set("ETag", f.etag)
	if r.Header.Get("If-None-Match") == f.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	header.Set("Content-Length", strconv.Itoa(len(f.body)))
	// A browser that is gone already needs no answer.
	_, _ = w.Write(f.body)
}
