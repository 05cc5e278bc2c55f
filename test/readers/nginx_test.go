// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"chatrun.dev/operator/test/harness"
)

// nginxConfig leaves all that concerns buffering as nginx has it by default.
const nginxConfig = `
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;

  ssl_certificate %[2]s/tls.crt;
  ssl_certificate_key %[2]s/tls.key;
  proxy_ssl_verify on;
  proxy_ssl_trusted_certificate %[3]s;
  proxy_ssl_name localhost;
%[4]s}
`

const nginxServer = `
  server {
    listen %s ssl;
    location / {
      proxy_pass https://%s;
      %s
    }
  }
`

// front is a server of nginx.
type front struct{ upstream, directive string }

// What a front may be told beside its upstream.
const (
	// asItIs speaks HTTP/1.0 to the endpoint, as nginx did until 1.29.
	asItIs = ""
	modern = "proxy_http_version 1.1;"
	// deaf does not heed what the endpoint says of buffering.
	deaf = "proxy_ignore_headers X-Accel-Buffering;"
)

// startNginx runs it until the test ends, and returns an address for each front.
func startNginx(t *testing.T, fronts ...front) []string {
	t.Helper()
	dir := t.TempDir()
	var addresses []string
	var servers strings.Builder
	for _, f := range fronts {
		address := freeAddress(t)
		addresses = append(addresses, address)
		fmt.Fprintf(&servers, nginxServer, address, f.upstream, f.directive)
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(nginxConfig, dir, the.certDir, the.caFile, servers.String())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "nginx", "-p", dir, "-c", config, "-e", "stderr")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	said := &strings.Builder{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // ended by the test's context; what it has to say is in its log
		t.Logf("nginx: %s", said)
	})
	for _, address := range addresses {
		if err := harness.UntilOpen(t.Context(), address, patience); err != nil {
			t.Fatal(err)
		}
	}
	return addresses
}

// freeAddress finds a port on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// TestNginx: through a proxy that buffers by default, a part is there before
// the provider may send the next one; and the reader can be cut.
func TestNginx(t *testing.T) {
	at := startNginx(t, front{the.stream, asItIs}, front{the.stream, deaf})
	t.Run("it buffers", func(t *testing.T) { buffers(t, at[1]) })
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			t.Parallel()
			score(t, reader.name)
			k := newKnife(t, at[0])
			liveAndCut(t, reader, k, k.address())
		})
	}
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			k := newKnife(t, at[0])
			cutInText(t, how, k, k.address())
		})
	}
}

// TestBehindNginx: the endpoint is cut off behind the proxy.
func TestBehindNginx(t *testing.T) {
	for _, reader := range named("curl", "Go", "Node, client of web", "Chromium, EventSource") {
		t.Run(reader.name, func(t *testing.T) {
			t.Parallel()
			score(t, reader.name)
			k := newKnife(t, the.stream)
			liveAndCut(t, reader, k, startNginx(t, front{k.address(), asItIs})[0])
		})
	}
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			k := newKnife(t, the.stream)
			// Over HTTP/1.0 a cut looks like an end, and this client asks for no [DONE].
			cutInText(t, how, k, startNginx(t, front{k.address(), modern})[0])
		})
	}
}

// liveAndCut reads part by part, with a cut by the knife in the middle.
func liveAndCut(t *testing.T, reader reader, k *knife, address string) {
	p := newPlay(t, "one ", "zwei ", "三 ", "🌊 ", "five")
	run := beginRun(t, p.answer())
	r := reader.start(t, "https://"+address, run.Name)
	for i := range p.parts {
		r.saw(t, p.text(i+1))
		if i == 2 {
			k.cut()
		}
		p.goOn(i + 1)
	}
	got, err := r.whole(t)
	if err != nil {
		t.Fatal(err)
	}
	equals(t, got, stored(t, run))
}

// TestTextBehindNginx: over HTTP/1.0 nobody can tell a broken answer from a
// whole one, so text that may have to be broken off must not go that way.
func TestTextBehindNginx(t *testing.T) {
	at := startNginx(t, front{the.stream, asItIs}, front{the.stream, modern})
	t.Run("HTTP 1.1", func(t *testing.T) {
		score(t, curlAsText)
		exits(t, textRetry(t, at[1], "--http1.1"), curlPartial)
	})
	t.Run("HTTP 1.0", func(t *testing.T) {
		score(t, curlAsText)
		base := "https://" + at[0]
		lost, kept := newPlay(t, "lost ", "text"), newPlay(t, "kept ", "text")
		run := beginRun(t, lost.answer().ResetAfter(2), kept.answer())
		r := curlText(t, base, run.Name, "", "--http1.1")
		patient := curlText(t, base, run.Name, "&hold=true", "--http1.1")
		r.sawOrEnded(t, lost.text(1))
		lost.finish()
		isBroken(t, r)
		kept.finish()
		isWhole(t, patient, stored(t, run))
	})
}

// buffers shows that this nginx does hold text back where it is not told
// otherwise, so that the others had something to overcome.
func buffers(t *testing.T, deaf string) {
	p := newPlay(t, "one ", "two")
	run := beginRun(t, p.answer())
	direct := goEvents(t, "https://"+the.stream, run.Name)
	behind := goEvents(t, "https://"+deaf, run.Name)
	direct.saw(t, p.text(1))
	behind.mu.Lock()
	changed := behind.changed
	behind.mu.Unlock()
	select {
	case <-changed:
		t.Error("nginx did not buffer")
	case <-time.After(time.Second):
	}
	p.finish()
	got, err := behind.whole(t)
	if err != nil {
		t.Fatal(err)
	}
	equals(t, got, stored(t, run))
}

// named picks readers.
func named(names ...string) []reader {
	var picked []reader
	for _, r := range readers {
		if slices.Contains(names, r.name) {
			picked = append(picked, r)
		}
	}
	return picked
}
