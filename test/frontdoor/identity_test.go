// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// testLive: a user with nothing but the role reads tokens as they come. The
// second is let go only when the first was read, so nothing on the way may keep
// it.
func testLive(t *testing.T, d *door) {
	gate := make(chan struct{})
	p := d.place(t, "live", chattest.Always(chattest.Answer("one ", "two").HoldAfter(1, gate)))
	jane := d.user(t, "jane")
	d.grant(t, p.namespace, reader, "User", jane.name)
	p.run(t, "hello")

	cmd := d.command(t.Context(), t.TempDir(), jane.kubeconfig, "get", "--raw", logPath(p.namespace, "hello", "follow=true"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	lines := bufio.NewScanner(io.TeeReader(out, &seen))
	open := false
	for lines.Scan() {
		if !open && strings.Contains(lines.Text(), `"text":"one "`) {
			if strings.Contains(seen.String(), "two") {
				t.Error("the second token came before it was let go")
			}
			open = true
			close(gate)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("kubectl: %v\n%s", err, complaints.String())
	}
	for _, want := range []string{`"text":"two"`, "event: done", `"phase":"Succeeded"`} {
		if !strings.Contains(seen.String(), want) {
			t.Errorf("the stream has no %s:\n%s", want, seen.String())
		}
	}
	if got := d.must(t, jane.kubeconfig, "get", "--raw", logPath(p.namespace, "hello", "format=text")); got != "one two" {
		t.Errorf("as text it is %q", got)
	}
	resumes(t, jane, p.namespace, seen.String())
}

// resumes comes back with the id of the first token, in both ways: what comes
// from the client reaches the manager as it was.
func resumes(t *testing.T, u user, namespace, seen string) {
	t.Helper()
	head, _, _ := strings.Cut(seen, `data: {"role":"assistant","text":"one "}`)
	_, id, found := strings.Cut(head[strings.LastIndex(head, "\n\n"):], "id: ")
	if id, _, _ = strings.Cut(id, "\n"); !found {
		t.Fatalf("no id of the first token:\n%s", seen)
	}
	for query, header := range map[string]string{"follow=true&after=" + id: "", "follow=true": id} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(u.cfg.Host, "/")+logPath(namespace, "hello", query), nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Last-Event-ID", header)
		}
		resp, err := u.httpClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // it was read
		if err != nil || !strings.Contains(string(body), `"text":"two"`) || strings.Contains(string(body), "one ") {
			t.Errorf("resumed by %s and header %q: %v\n%s", query, header, err, body)
		}
	}
}

// testRefusals: whom the API server lets through to which namespace.
func testRefusals(t *testing.T, d *door) {
	p := d.place(t, "mine", chattest.Always(chattest.Answer("secret text")))
	other := d.place(t, "theirs", chattest.Always(chattest.Answer("secret text")))
	p.run(t, "hello")
	other.run(t, "hello")
	john, nobody, member := d.user(t, "john"), d.user(t, "nobody"), d.user(t, "member", "readers")
	viewer := d.user(t, "viewer")
	d.grant(t, p.namespace, reader, "User", john.name)
	d.grant(t, p.namespace, reader, "Group", "readers")
	d.grant(t, p.namespace, "chatrun-viewer", "User", viewer.name)
	path := func(namespace, name string) string { return logPath(namespace, name, "follow=true&format=text") }

	for _, c := range []struct {
		what string
		who  user
		path string
		// want is in the answer, or in kubectl's complaint.
		want string
	}{
		{"the role, in its namespace", john, path("mine", "hello"), "secret text"},
		{"the role by a group alone", member, path("mine", "hello"), "secret text"},
		{"another namespace", john, path("theirs", "hello"), "Forbidden"},
		{"another namespace, by a group", member, path("theirs", "hello"), "Forbidden"},
		{"no role", nobody, path("mine", "hello"), "Forbidden"},
		{"the right to the objects alone", viewer, path("mine", "hello"), "Forbidden"},
		{"no role, and no such run", nobody, path("mine", "absent"), "Forbidden"},
		{"no such run", john, path("mine", "absent"), "NotFound"},
	} {
		answer, complaint, err := d.kubectl(t, c.who.kubeconfig, "get", "--raw", c.path)
		if c.want == "secret text" {
			if err != nil || answer != c.want {
				t.Errorf("%s: %q, %v\n%s", c.what, answer, err, complaint)
			}
			continue
		}
		if err == nil || !strings.Contains(complaint, c.want) || strings.Contains(answer+complaint, "secret text") {
			t.Errorf("%s: answered %q, complaint %q, %v; want %s", c.what, answer, complaint, err, c.want)
		}
	}
}

// testForgery: whoever reaches the manager without the API server is who its own
// certificate says, whatever the headers say.
func testForgery(t *testing.T, d *door) {
	p := d.place(t, "forged", chattest.Always(chattest.Answer("secret text")))
	p.run(t, "hello")
	owner, stranger := d.user(t, "owner"), d.user(t, "stranger")
	d.grant(t, p.namespace, reader, "User", owner.name)

	foreign, err := harness.NewAuthority("front-proxy")
	if err != nil {
		t.Fatal(err)
	}
	headers := func(name string, groups ...string) http.Header {
		return http.Header{"X-Remote-User": {name}, "X-Remote-Group": groups}
	}
	d.grant(t, p.namespace, reader, "Group", "system:serviceaccounts:"+p.namespace)
	good, bad := bearer(d.token(t, p.namespace)), bearer(d.token(t, "default"))
	forged := bad.Clone()
	maps.Copy(forged, headers("owner"))
	for _, c := range []struct {
		what        string
		certificate *tls.Certificate
		header      http.Header
		want        int
	}{
		{"nothing", nil, nil, http.StatusUnauthorized},
		{"headers, no certificate", nil, headers("owner"), http.StatusUnauthorized},
		{"an admin's headers, no certificate", nil, headers("admin", "system:masters"), http.StatusUnauthorized},
		{"a certificate of another authority", issued(t, foreign, harness.FrontProxyName), headers("owner"), http.StatusUnauthorized},
		{"a name that is not allowed", issued(t, d.proxy.Authority, "somebody"), headers("owner"), http.StatusUnauthorized},
		{"the front proxy without a user", issued(t, d.proxy.Authority, harness.FrontProxyName), nil, http.StatusUnauthorized},
		{"the front proxy for one without the role", issued(t, d.proxy.Authority, harness.FrontProxyName), headers("stranger"), http.StatusForbidden},
		{"the front proxy for the owner", issued(t, d.proxy.Authority, harness.FrontProxyName), headers("owner"), http.StatusOK},
		{"the token of a ServiceAccount with the role", nil, good, http.StatusOK},
		{"the token of one without", nil, bad, http.StatusForbidden},
		{"the token of one without, and the owner's headers", nil, forged, http.StatusForbidden},
		{"a token that is none", nil, bearer("no-token"), http.StatusUnauthorized},
		{"the owner's own certificate", own(t, owner), nil, http.StatusOK},
		{"a stranger's own certificate", own(t, stranger), nil, http.StatusForbidden},
		{"a stranger's own certificate and the owner's headers", own(t, stranger), headers("owner"), http.StatusForbidden},
		{"a stranger's own certificate and an admin's headers", own(t, stranger), headers("admin", "system:masters"), http.StatusForbidden},
	} {
		code, body := d.direct(t, c.certificate, c.header, logPath(p.namespace, "hello", "follow=true&format=text"))
		if code != c.want || (code == http.StatusOK) != strings.Contains(body, "secret text") {
			t.Errorf("%s: %d %s, want %d", c.what, code, body, c.want)
		}
		// What is there is not told to those who are nobody either.
		if code, body := d.direct(t, c.certificate, c.header, "/apis/stream.chatrun.dev/v1alpha1"); (code == http.StatusUnauthorized) != (c.want == http.StatusUnauthorized) {
			t.Errorf("%s: discovery answers %d %s", c.what, code, body)
		}
	}
}

// token makes a ServiceAccount, and returns a token of it, as docs/access.md does.
func (d *door) token(t *testing.T, namespace string) string {
	t.Helper()
	d.must(t, d.admin, "create", "serviceaccount", "robot", "--namespace="+namespace)
	return d.must(t, d.admin, "create", "token", "robot", "--namespace="+namespace)
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + strings.TrimSpace(token)}}
}

func issued(t *testing.T, authority *harness.Authority, name string) *tls.Certificate {
	t.Helper()
	pair, err := authority.Issue(name)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return &certificate
}

// own is the certificate that the user shows the API server.
func own(t *testing.T, u user) *tls.Certificate {
	t.Helper()
	certificate, err := tls.X509KeyPair(u.cfg.CertData, u.cfg.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	return &certificate
}

// direct asks the manager itself.
func (d *door) direct(t *testing.T, certificate *tls.Certificate, header http.Header, path string) (int, string) {
	t.Helper()
	g := NewWithT(t)
	roots := x509.NewCertPool()
	g.Expect(roots.AppendCertsFromPEM(d.serving.PEM)).To(BeTrue())
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		// Whatever authorities the server names: a liar sends it anyway.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.address+path, nil)
	g.Expect(err).NotTo(HaveOccurred())
	req.Header = header.Clone()
	resp, err := client.Do(req)
	g.Expect(err).NotTo(HaveOccurred())
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	g.Expect(err).NotTo(HaveOccurred())
	return resp.StatusCode, string(body)
}
