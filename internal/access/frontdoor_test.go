// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate: certificate, key: key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// client signs a client's certificate, that ends at a time.
func (a *authority) client(t *testing.T, name string, ends time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: []string{"staff"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// published is the ConfigMap by which an API server can be known.
func published(users, proxies *authority) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: frontNamespace, Name: frontConfigMap},
		Data: map[string]string{
			"client-ca-file": users.pem(), "requestheader-client-ca-file": proxies.pem(),
			"requestheader-allowed-names": `["front-proxy-client"]`, "requestheader-username-headers": `["X-Remote-User"]`,
			"requestheader-uid-headers": `["X-Remote-Uid"]`, "requestheader-group-headers": `["X-Remote-Group"]`,
			"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
		},
	}
}

// door is a front door that is to be started.
func door(t *testing.T, server *api) *FrontDoor {
	t.Helper()
	f, err := NewFrontDoor(server)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// running starts a front door, and an endpoint behind it that tells by its code
// whether a request was admitted.
func running(t *testing.T, w *world, f *FrontDoor) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f.Start(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	endpoint := httptest.NewUnstartedServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		w.gate.Admit(answer, r, "default", "hello")
	}))
	own := newAuthority(t, "endpoint").client(t, "endpoint", time.Now().Add(time.Minute))
	endpoint.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*own}}
	f.TLS(endpoint.TLS)
	endpoint.StartTLS()
	t.Cleanup(endpoint.Close)
	return endpoint
}

// ask sends a request with a certificate, on a connection of its own.
func ask(t *testing.T, endpoint *httptest.Server, certificate *tls.Certificate, header http.Header, query string) int {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if certificate != nil {
		// Whatever authorities the server names.
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint.URL+query, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

// eventually wants something to become true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal(what + ": not within the time")
		}
	}
}

func as(name string) http.Header {
	return http.Header{"X-Remote-User": {name}, "X-Remote-Uid": {"uid-" + name}, "X-Remote-Group": {"staff", "more"}, "X-Remote-Extra-Scopes": {"chat"}}
}

// TestFrontDoor: the API server's word is taken if it is the API server's, and
// so are users' certificates.
func TestFrontDoor(t *testing.T) {
	users, proxies, strangers := newAuthority(t, "users"), newAuthority(t, "proxies"), newAuthority(t, "strangers")
	server := newAPI(published(users, proxies))
	f := door(t, server)
	w := newWorld(t, Options{Client: server, FrontDoor: f})
	ticket := w.ticket(request{token: janeToken})
	if f.Ready() == nil {
		t.Error("ready before it has read anything")
	}
	endpoint := running(t, w, f)
	eventually(t, "the front door opens", func() bool { _, known := f.users.VerifyOptions(); return known && f.Ready() == nil })
	later := time.Now().Add(time.Minute)
	proxy := proxies.client(t, "front-proxy-client", later)
	for _, tc := range []struct {
		name        string
		certificate *tls.Certificate
		header      http.Header
		query       string
		code        int
	}{
		{"the API server, for jane", proxy, as("jane"), "", 200},
		{"the API server, for joe", proxy, as("joe"), "", 403},
		{"the API server, for joe with a ticket of jane", proxy, as("joe"), "?ticket=" + ticket, 403},
		{"the API server, for anybody", proxy, as("system:anonymous"), "", 403},
		{"the API server, for nobody", proxy, http.Header{}, "", 401},
		{"nobody, for jane", nil, as("jane"), "", 401},
		{"another name of that authority", proxies.client(t, "kubelet", later), as("jane"), "", 401},
		{"a stranger, for jane", strangers.client(t, "front-proxy-client", later), as("jane"), "", 401},
		{"a user, for jane", users.client(t, "front-proxy-client", later), as("jane"), "", 403},
		{"too old, for jane", proxies.client(t, "front-proxy-client", time.Now().Add(-time.Minute)), as("jane"), "", 401},
		{"jane herself", users.client(t, "jane", later), http.Header{}, "", 200},
		{"joe himself", users.client(t, "joe", later), http.Header{}, "", 403},
		{"jane, too old", users.client(t, "jane", time.Now().Add(-time.Minute)), http.Header{}, "", 401},
		{"jane, a stranger", strangers.client(t, "jane", later), http.Header{}, "", 401},
		{"a stranger with a ticket", strangers.client(t, "jane", later), http.Header{}, "?ticket=" + ticket, 200},
		{"a stranger with a token", strangers.client(t, "joe", later), http.Header{"Authorization": {"Bearer " + janeToken}}, "", 200},
		{"nobody with a token", nil, http.Header{"Authorization": {"Bearer " + janeToken}}, "", 200},
		{"nobody", nil, http.Header{}, "", 401},
	} {
		if code := ask(t, endpoint, tc.certificate, tc.header, tc.query); code != tc.code {
			t.Errorf("%s: %d, want %d", tc.name, code, tc.code)
		}
	}

	// The API server renews its authority.
	renewed := newAuthority(t, "renewed")
	if _, err := server.CoreV1().ConfigMaps(frontNamespace).Update(t.Context(), published(users, renewed), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	fresh := renewed.client(t, "front-proxy-client", later)
	eventually(t, "the new authority counts", func() bool { return ask(t, endpoint, fresh, as("jane"), "") == http.StatusOK })
	if code := ask(t, endpoint, proxy, as("jane"), ""); code != http.StatusUnauthorized {
		t.Errorf("%d by the former authority", code)
	}
}

// TestFrontDoorNamesItsAuthorities, and no others, so that a browser does not
// offer its owner's other certificates.
func TestFrontDoorNamesItsAuthorities(t *testing.T) {
	users, proxies := newAuthority(t, "users"), newAuthority(t, "proxies")
	server := newAPI(published(users, proxies))
	f := door(t, server)
	endpoint := running(t, newWorld(t, Options{Client: server, FrontDoor: f}), f)
	eventually(t, "the front door opens", func() bool { _, known := f.users.VerifyOptions(); return known && f.Ready() == nil })
	var named [][]byte
	config := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		named = info.AcceptableCAs
		return &tls.Certificate{}, nil
	}}
	connection, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", endpoint.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = connection.Close()
	if len(named) != 2 || string(named[0]) != string(users.certificate.RawSubject) || string(named[1]) != string(proxies.certificate.RawSubject) {
		t.Errorf("%d authorities are named", len(named))
	}
}

// TestFrontDoorWithoutTheConfigMap knows nobody, and lets tokens in.
func TestFrontDoorWithoutTheConfigMap(t *testing.T) {
	users, proxies := newAuthority(t, "users"), newAuthority(t, "proxies")
	server := newAPI()
	f := door(t, server)
	endpoint := running(t, newWorld(t, Options{Client: server, FrontDoor: f}), f)
	later := time.Now().Add(time.Minute)
	if code := ask(t, endpoint, proxies.client(t, "front-proxy-client", later), as("jane"), ""); code != http.StatusUnauthorized {
		t.Errorf("%d by an API server that is not known", code)
	}
	if code := ask(t, endpoint, users.client(t, "jane", later), http.Header{}, ""); code != http.StatusUnauthorized {
		t.Errorf("%d by a certificate that nobody knows", code)
	}
	if code := ask(t, endpoint, nil, http.Header{"Authorization": {"Bearer " + janeToken}}, ""); code != http.StatusOK {
		t.Errorf("%d by a token", code)
	}
}
