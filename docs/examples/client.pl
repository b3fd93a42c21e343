#!/usr/bin/perl
# client.pl MOUNT: a hash, an AEAD, a device and an error by records, poll and ioctl.
use strict;
use warnings;
use Errno 'EINTR';
use Fcntl;
use IO::Poll 'POLLIN';

my ($configure, $encrypt, $decrypt, $digest) = (1, 16, 17, 18);
my $mount = shift or die "usage: client.pl MOUNT\n";

sub attribute {
    my ($type, $value) = @_;
    return pack('vv/a*x!4', $type, $value);
}

sub request {
    my ($operation, $attributes, $payload) = @_;
    my $size = 24 + length($attributes) + length $payload;
    return pack('VCCvQ<VV', $size, 1, $operation, 0, 1, 0, length $attributes) . $attributes . $payload;
}

sub parse {    # status, message, payload
    my ($size, undef, undef, undef, undef, $status, $attributes) = unpack 'VCCvQ<VV', $_[0];
    my $message = $status ? unpack 'x26v/a*', $_[0] : '';
    return $status, $message, substr $_[0], 24 + $attributes, $size - 24 - $attributes;
}

sub ask {
    my ($file, @request) = @_;
    my ($poll, $answer) = IO::Poll->new;
    syswrite $file, request(@request) or die "write: $!\n";    # print would cut a long record
    $poll->mask($file => POLLIN);
    $poll->poll;    # or do something else meanwhile
    1 until defined sysread($file, $answer, 65536) or $! != EINTR;
    return parse($answer);
}

sub device {
    sysopen my $file, "$mount/$_[0]", O_RDWR or die "$_[0]: $!\n";
    return $file;
}

my ($hash, $aead, $mac) = map { device($_) } qw(crypto crypto devices/mac/crypto);
ask($hash, $configure, attribute(1, 'hash') . attribute(2, 'sha256'), '');
printf "hash %s\n", unpack 'H*', (ask($hash, $digest, '', 'abc'))[2];
ask($aead, $configure, attribute(1, 'aead') . attribute(2, 'gcm(aes)') . attribute(3, pack 'C*', 0 .. 15), '');
my $iv = attribute(8, '123456789012') . attribute(9, pack 'V', 6);
my $sealed = (ask($aead, $encrypt, $iv, 'headertext'))[2];
printf "aead %s\nopened %s\n", unpack('H*', $sealed), (ask($aead, $decrypt, $iv, "header$sealed"))[2];
printf "device %s\n", unpack 'H*', (ask($mac, $digest, '', 'abc'))[2];
printf "error %d %s\n", (ask($aead, $decrypt, $iv, "Header$sealed"))[0, 1];
my $buffer = pack 'a1024', request($digest, '', 'abc');
ioctl $hash, 0xC00063C0 | length($buffer) << 16, $buffer or die "ioctl: $!\n";    # _IOWR('c', 0xC0, buffer)
printf "ioctl %s\n", unpack 'H*', (parse($buffer))[2];
