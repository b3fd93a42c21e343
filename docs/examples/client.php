<?php // client.php MOUNT: a hash, an AEAD, a device and an error by records, and stream_select. PHP has no ioctl.

const CONFIGURE = 1, ENCRYPT = 16, DECRYPT = 17, DIGEST = 18;

function attribute(int $type, string $value): string
{
    return pack('vv', $type, strlen($value)) . $value . str_repeat("\0", -strlen($value) & 3);
}

function request(int $operation, string $attributes, string $payload): string
{
    $size = 24 + strlen($attributes) + strlen($payload);
    return pack('VCCvPVV', $size, 1, $operation, 0, 1, 0, strlen($attributes)) . $attributes . $payload;
}

/** The status, the message of an error, and the payload. */
function ask($file, int $operation, string $attributes, string $payload): array
{
    fwrite($file, request($operation, $attributes, $payload)); // one write(2) since PHP 7.4
    $readable = [$file];
    $none = null;
    stream_select($readable, $none, $none, null); // or do something else meanwhile
    $answer = fread($file, 65536);
    $header = unpack('Vsize/Cversion/Coperation/vflags/Pid/Vstatus/Vattributes', $answer);
    $message = $header['status'] ? substr($answer, 28, unpack('v', $answer, 26)[1]) : '';
    return [$header['status'], $message, substr($answer, 24 + $header['attributes'])];
}

function device(string $path)
{
    $file = fopen($path, 'r+b') ?: exit(1);
    stream_set_read_buffer($file, 0); // a buffer would remember an end of file
    return $file;
}

$mount = $argv[1];
[$hash, $aead, $mac] = [device("$mount/crypto"), device("$mount/crypto"), device("$mount/devices/mac/crypto")];
ask($hash, CONFIGURE, attribute(1, 'hash') . attribute(2, 'sha256'), '');
echo 'hash ', bin2hex(ask($hash, DIGEST, '', 'abc')[2]), "\n";

$key = pack('C*', ...range(0, 15));
ask($aead, CONFIGURE, attribute(1, 'aead') . attribute(2, 'gcm(aes)') . attribute(3, $key), '');
$iv = attribute(8, '123456789012') . attribute(9, pack('V', 6));
$sealed = ask($aead, ENCRYPT, $iv, 'headertext')[2];
echo 'aead ', bin2hex($sealed), "\nopened ", ask($aead, DECRYPT, $iv, "header$sealed")[2], "\n";

echo 'device ', bin2hex(ask($mac, DIGEST, '', 'abc')[2]), "\n";

[$status, $message] = ask($aead, DECRYPT, $iv, "Header$sealed");
echo "error $status $message\npoll readable\n";
