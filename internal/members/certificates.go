// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// relayDomain is the domain of the names in certificates. Nobody resolves it.
	relayDomain = "relay.chatrun.dev"
	// MaxRelayWorker is the longest name of a replica that serves others: a name in
	// a certificate has at most 253 characters.
	MaxRelayWorker = 200

	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 90 * 24 * time.Hour
	// leafRenewal leaves a month to notice that there is no other one.
	leafRenewal = 60 * 24 * time.Hour
	// clockSkew is how far clocks of two machines may be apart.
	clockSkew = time.Hour
)

// relayName is the name of a replica in its certificate.
func relayName(worker string) string { return worker + "." + relayDomain }

// newAuthoritySecret makes an authority, in a Secret. It can sign nothing but
// names of replicas.
func newAuthoritySecret(name types.NamespacedName) (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "chatrun-relay " + now.UTC().Format(time.RFC3339)},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomains: []string{relayDomain}, PermittedDNSDomainsCritical: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: name.Namespace, Name: name.Name,
			Labels:      map[string]string{"app.kubernetes.io/name": "chatrun-operator", "app.kubernetes.io/component": "manager"},
			Annotations: map[string]string{"chatrun.dev/description": "Signs the certificates by which the manager's replicas know each other. Deleting it makes another one."},
		},
		// To be replaced by deleting it: an edit could leave a key without its certificate.
		Immutable: new(true),
		Type:      corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		},
	}, nil
}

// readSigner reads the authority of a Secret. Its errors hold nothing of the key.
func readSigner(secret *corev1.Secret) (*signer, error) {
	// It checks that they belong together.
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, errors.New("no certificate with its key")
	}
	certificate, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	switch now := time.Now(); {
	case !ok || !certificate.IsCA:
		return nil, errors.New("the certificate is not one of an authority")
	case now.After(certificate.NotAfter):
		return nil, fmt.Errorf("the certificate ended at %s", certificate.NotAfter.UTC().Format(time.RFC3339))
	}
	return &signer{certificate: certificate, key: key}, nil
}

// issue returns a certificate for a replica, with a key of its own.
func (s *signer) issue(worker string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	until := now.Add(leafLife)
	if until.After(s.certificate.NotAfter) {
		until = s.certificate.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(), DNSNames: []string{relayName(worker)},
		NotBefore: now.Add(-clockSkew), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.certificate, key.Public(), s.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// serial returns 127 random bits: no two certificates share one.
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
