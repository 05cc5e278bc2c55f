// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"chatrun.dev/operator/internal/chatretry"
)

func TestGuard(t *testing.T) {
	g, err := newGuard([]string{"10.0.0.0/8", " 2001:db8::/32 "})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{
		"169.254.169.254:80":          true,
		"169.254.0.1:443":             true,
		"[::ffff:169.254.169.254]:80": true,
		"[::ffff:a9fe:a9fe]:80":       true,
		"[64:ff9b::a9fe:a9fe]:80":     true,
		"[fe80::1]:80":                true,
		"[fe80::1%eth0]:80":           true,
		"[febf::1]:80":                true,
		"[fd00:ec2::254]:80":          true,
		"168.63.129.16:80":            true,
		"100.100.100.200:80":          true,
		"0.0.0.0:80":                  true,
		"[::]:80":                     true,
		"224.0.0.1:80":                true,
		"[ff02::1]:80":                true,
		"10.1.2.3:443":                true,
		"[::ffff:10.1.2.3]:443":       true,
		"[64:ff9b::10.1.2.3]:443":     true,
		"[2001:db8::1]:443":           true,
		"no address":                  true,
		"127.0.0.1:8000":              false,
		"[::1]:8000":                  false,
		"192.168.1.1:8000":            false,
		"172.16.0.1:8000":             false,
		"100.64.0.1:8000":             false,
		"104.18.6.192:443":            false,
		"[2606:4700::6812:6c0]:443":   false,
		"[fd00::1]:443":               false,
		"169.253.255.255:443":         false,
		"[64:ff9b::104.18.6.192]:443": false,
	}
	for address, want := range tests {
		err := g.control(t.Context(), "tcp", address, nil)
		if (err != nil) != want || want && !errors.Is(err, ErrTargetRefused) {
			t.Errorf("%s: %v", address, err)
		}
	}
	names := map[string]bool{
		"169.254.169.254": true, "::ffff:169.254.169.254": true, "fe80::1%eth0": true, "10.0.0.1": true,
		"2852039166": true, "0xA9FEA9FE": true, "169.254.43518": true, "0251.0376.0251.0376": true, "127.1": true,
		"0xa9.0xfe.0xa9.0xfe": true, "169.254.169.254.": true,
		"api.openai.com": false, "example.com.": false, "1.example.com": false, "x1": false, "104.18.6.192": false, "": false,
	}
	for name, want := range names {
		if got := g.refusesName(name); got != want {
			t.Errorf("%q by name: %v", name, got)
		}
	}
}

// The real dialer refuses, before and after it resolves a name, and nobody is
// asked again.
func TestRefusedTargets(t *testing.T) {
	server := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("called") })
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "http://"), ":")
	c := client(t, Options{DenyCIDRs: []string{"127.0.0.0/8", "::1/128"}})
	for _, base := range []string{
		"http://169.254.169.254/latest", "https://169.254.169.254", "http://[::ffff:169.254.169.254]", "http://[fe80::1%25lo]",
		"http://0.0.0.0:" + port, server.URL, "http://localhost:" + port, "https://localhost:" + port,
	} {
		for _, kind := range []Type{OpenAI, Anthropic} {
			f := failure(t, stream(t.Context(), c, endpoint(kind, base), question).err)
			if f.Class != chatretry.InvalidRequest || !errors.Is(f, ErrTargetRefused) || !strings.Contains(f.Message, "change baseURL") {
				t.Errorf("%s: %v: %v", base, f, f.Err)
			}
			checkMessage(t, f)
		}
	}
}

func TestInCluster(t *testing.T) {
	tests := map[string]bool{
		"localhost": true, "vllm": true, "vllm.models.svc": true, "vllm.models.svc.": true, "vllm.models.svc.cluster.local": true,
		"VLLM.models.SVC.corp.example": true, "ollama.local": true, "a.b.internal": true, "box.home.arpa": true, "x.localhost": true,
		"127.0.0.1": true, "10.0.0.1": true, "192.168.0.1": true, "172.20.0.1": true, "100.64.1.1": true, "::1": true,
		"fd00::1": true, "::ffff:10.0.0.1": true,
		"api.openai.com": false, "api.anthropic.com": false, "svc.example.com": false, "local.example.com": false, "8.8.8.8": false,
		"2606:4700::1": false, "internal.example.com": false,
	}
	for host, want := range tests {
		if got := inCluster(host); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestNoProxy(t *testing.T) {
	n, err := newNoProxy("localhost, .svc,Cluster.Local,*.corp.example,10.0.0.0/8,fd00::/8,192.168.1.5,api.example.com:8443,[::1]:80,,")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{
		"http://localhost": true, "https://LOCALHOST:99": true, "http://a.localhost": true,
		"http://vllm.models.svc": true, "http://svc": false,
		"http://cluster.local": true, "http://x.cluster.local.": true, "http://notcluster.local": false,
		"http://a.corp.example": true, "http://corp.example": false,
		"http://10.2.3.4": true, "http://11.2.3.4": false, "http://[::ffff:10.2.3.4]": true, "http://[fd00::5]": true,
		"http://192.168.1.5:8000": true, "http://192.168.1.6": false,
		"https://api.example.com:8443": true, "https://api.example.com": false,
		"http://[::1]": true, "http://[::1]:81": false,
		"https://api.openai.com": false,
	}
	for raw, want := range tests {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := n.covers(u); got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
	all, _ := newNoProxy("x, *")
	none, _ := newNoProxy("")
	u := &url.URL{Scheme: "https", Host: "api.openai.com"}
	if !all.covers(u) || none.covers(u) {
		t.Error("everything or nothing")
	}
}

// Redirects are not followed and cookies not kept, or a provider could send
// the key on, or tell calls apart.
func TestNoRedirectsNoCookies(t *testing.T) {
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.Cookies()) > 0 {
			t.Errorf("cookies %v", r.Cookies())
		}
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	c := client(t, Options{})
	for range 2 {
		f := failure(t, stream(t.Context(), c, endpoint(OpenAI, server.URL), question).err)
		if f.Class != chatretry.InvalidRequest || strings.Contains(f.Message, elsewhere.URL) || !strings.Contains(f.Message, "redirects") {
			t.Errorf("%v", f)
		}
	}
}

// Nobody's headers replace ours.
func TestHeaders(t *testing.T) {
	var got http.Header
	var host string
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, host = r.Header, r.Host
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
	})
	to := endpoint(OpenAI, server.URL)
	for _, name := range reservedHeaders {
		to.Headers = append(to.Headers, Header{strings.ToLower(name), "evil"})
	}
	to.Headers = append(to.Headers, Header{"X-Gateway-Team", "blue"}, Header{"x-gateway-tag", "a"}, Header{"X-Gateway-Tag", "b"}, Header{"Anthropic-Beta", "x"})
	if h := stream(t.Context(), client(t, Options{UserAgent: "chatrun/test"}), to, question); h.err != nil {
		t.Fatal(h.err)
	}
	for name, values := range got {
		for _, value := range values {
			if value == "evil" {
				t.Errorf("%s was replaced", name)
			}
		}
	}
	if host == "evil" || got.Get("User-Agent") != "chatrun/test" || got.Get("Content-Type") != "application/json" ||
		got.Get("X-Gateway-Team") != "blue" || len(got.Values("X-Gateway-Tag")) != 2 || got.Get("Authorization") != "Bearer "+secret {
		t.Errorf("host %q, headers %v", host, got)
	}
}
