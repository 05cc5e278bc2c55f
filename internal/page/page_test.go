// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func ask(t *testing.T, anybody bool, method, target, etag string) *httptest.ResponseRecorder {
	t.Helper()
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	h, err := Beside(next, anybody)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	h.ServeHTTP(w, r)
	return w
}

// TestPaths: the page and what it loads are served, and nothing else is taken from
// who stands behind it.
func TestPaths(t *testing.T) {
	for _, tc := range []struct {
		method, target string
		code           int
		contentType    string
	}{
		{"GET", "/", 302, ""},
		{"GET", "/ui", 302, ""},
		{"GET", "/ui/", 200, "text/html; charset=utf-8"},
		{"HEAD", "/ui/", 200, "text/html; charset=utf-8"},
		{"GET", "/ui/app.js", 200, "text/javascript; charset=utf-8"},
		{"GET", "/ui/style.css", 200, "text/css; charset=utf-8"},
		{"GET", "/ui/icon.svg", 200, "image/svg+xml"},
		{"POST", "/ui/", 405, ""},
		{"GET", "/ui/index.html", 418, ""},
		{"GET", "/ui/other", 418, ""},
		{"GET", "/v1/namespaces/a/chatruns", 418, ""},
		{"GET", "/apis", 418, ""},
	} {
		w := ask(t, false, tc.method, tc.target, "")
		if w.Code != tc.code || w.Header().Get("Content-Type") != tc.contentType {
			t.Errorf("%s %s: %d, %q", tc.method, tc.target, w.Code, w.Header().Get("Content-Type"))
		}
		if w.Code == 302 && w.Header().Get("Location") != "./ui/" {
			t.Errorf("%s leads to %q", tc.target, w.Header().Get("Location"))
		}
	}
}

// TestHeaders: whatever is served carries them all.
func TestHeaders(t *testing.T) {
	for _, target := range []string{"/", "/ui/", "/ui/app.js", "/ui/style.css", "/ui/icon.svg"} {
		header := ask(t, false, "GET", target, "").Header()
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-cache", "Set-Cookie": "",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", target, name, got, want)
			}
		}
		for _, want := range []string{
			"default-src 'none'", "script-src 'self'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'",
			"frame-ancestors 'none'", "require-trusted-types-for 'script'",
		} {
			if !strings.Contains(header.Get("Content-Security-Policy")+";", want+";") {
				t.Errorf("%s: the policy lacks %s", target, want)
			}
		}
		if strings.Contains(header.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: the policy allows what is unsafe", target)
		}
	}
}

// TestUnchanged: who has a file is not sent it again, and another page is another
// file.
func TestUnchanged(t *testing.T) {
	etag := ask(t, false, "GET", "/ui/", "").Header().Get("ETag")
	if w := ask(t, false, "GET", "/ui/", etag); etag == "" || w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("%q: %d, %d bytes", etag, w.Code, w.Body.Len())
	}
	if w := ask(t, true, "GET", "/ui/", etag); w.Code != http.StatusOK {
		t.Errorf("the page that asks for no token has the same tag")
	}
}

// TestSignIn: the page is told whether to ask for a token.
func TestSignIn(t *testing.T) {
	for anybody, want := range map[bool]string{false: asks, true: open} {
		if body := ask(t, anybody, "GET", "/ui/", "").Body.String(); strings.Count(body, "data-sign-in=") != 1 || !strings.Contains(body, want) {
			t.Errorf("anybody %v: not told so", anybody)
		}
	}
}

// TestNothingIsLoadedFromElsewhere, nor written in the page itself, which its
// policy would refuse.
func TestNothingIsLoadedFromElsewhere(t *testing.T) {
	body := ask(t, false, "GET", "/ui/", "").Body.String()
	loads := regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(body, -1)
	if len(loads) < 3 {
		t.Fatalf("it loads %q", loads)
	}
	for _, load := range loads {
		if !strings.HasPrefix(load[1], "#") && ask(t, false, "GET", "/ui/"+load[1], "").Code != http.StatusOK {
			t.Errorf("%s is not served", load[1])
		}
	}
	for _, wrong := range []string{`<script>`, ` style="`, `<style`, ` on[a-z]+="`} {
		if regexp.MustCompile(wrong).MatchString(body) {
			t.Errorf("%s stands in it", wrong)
		}
	}
}
